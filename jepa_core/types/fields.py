"""The fields of a source as a whole: names by part, the first view, and their form in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jepa_core.types.sample import KINDS, PARTS, Field, Fields


def names_of(fields: Fields, part: str) -> list[str]:
    """The names of a part's values, in order: `["image", "caption"]` of `views`."""
    return [place.removeprefix(f"{part}.") for place in fields if place.startswith(f"{part}.")]


def first_view(fields: Fields) -> str | None:
    """The name of the main encoder's view; None where the fields hold no view."""
    return next(iter(names_of(fields, "views")), None)


def fields_to_table(fields: Fields) -> dict[str, dict[str, Any]]:
    """As plain values for JSON, a table for each place; what is not said is left out."""
    return {
        place: {key: value for key, value in asdict(field).items() if value not in (None, "", ())}
        for place, field in fields.items()
    }


def fields_from_table(table: Any) -> dict[str, Field]:
    """What `fields_to_table` gave, also after a way through JSON. Raises ValueError for anything else."""
    if not isinstance(table, Mapping):
        raise ValueError(f"fields are a table by places; got a {type(table).__name__}")
    return {place: _field(place, entry) for place, entry in table.items()}


_ENTRIES: Mapping[str, tuple[str, Any]] = {
    "kind": (f"one of {', '.join(KINDS)}", lambda value: value in KINDS),
    "shape": ("a list of sizes", lambda value: _is_list(value, lambda side: side is None or _is_size(side))),
    "vocabulary": ("a whole number from 1", lambda value: _is_size(value)),
    "units": ("a text", lambda value: isinstance(value, str)),
    "names": ("a list of texts", lambda value: _is_list(value, lambda name: isinstance(name, str))),
    "rate": ("a number above 0", lambda value: type(value) in (int, float) and value > 0),
}
"""For each entry of a field what it is, in words, and whether a value of JSON is that."""


def _field(place: str, entry: Any) -> Field:
    part, _, name = place.partition(".")
    if part not in PARTS or not name:
        raise ValueError(f"a field stands at PART.NAME, PART one of {', '.join(PARTS)}; got {place!r:.60}")
    if not isinstance(entry, Mapping) or "kind" not in entry:
        raise ValueError(f"the field {place} is {entry!r:.60}; expected a table with a kind")
    for key, value in entry.items():
        if key not in _ENTRIES:
            raise ValueError(f"the field {place} has an entry {key!r:.40}; known: {', '.join(_ENTRIES)}")
        expected, fits = _ENTRIES[key]
        if not fits(value):
            raise ValueError(f"the field {place}: {key} is {value!r:.40}; expected {expected}")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
    return Field(**values)


def _is_list(value: Any, is_item: Any) -> bool:
    return isinstance(value, list | tuple) and all(is_item(item) for item in value)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1
