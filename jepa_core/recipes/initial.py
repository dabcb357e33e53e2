"""The tables `[init.PART]` of a recipe, read and merged. What one may hold stands in `settings.initial`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jepa_core.errors import UserError, unknown
from jepa_core.settings.initial import ORIGINS, InitSettings
from jepa_core.settings.parse import parse
from jepa_core.settings.validation_errors import show


def read_init(table: Any) -> dict[str, InitSettings]:
    """The settings of each part by its path, a part before those inside it.

    Raises UserError for what is no table, and for settings that are not those of `InitSettings`.
    """
    entries = {}
    for part, values in _parts(table, ""):
        entries[part] = parse(InitSettings, values, f"init.{part}")
        entries[part].check(part)
    return entries


def _parts(table: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, own settings) of each part: tables inside a table are parts inside it."""
    if not isinstance(table, Mapping):
        expected = f"a table with {', '.join(ORIGINS)}" if path else "a table for each part"
        raise UserError(
            f"section {f'init.{path}' if path else 'init'!r} is {show(table)}; expected {expected}"
        )
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    own = {key: value for key, value in table.items() if key not in inner}
    if path and (own or not inner):
        yield path, own
    elif own:
        raise UserError(f"setting 'init.{next(iter(own))}' is {show(next(iter(own.values())))}; "
                        f"expected a table with {', '.join(ORIGINS)}")  # fmt: skip
    for key, value in inner.items():
        yield from _parts(value, f"{path}.{key}" if path else key)


def merge_init(base: Any, changes: Mapping[str, Any], path: str = "init") -> dict[str, Any]:
    """`base` with `changes` on top; another origin replaces the old one, `false` takes a part out.

    Raises UserError for a part that is taken out and not there.
    """
    merged = dict(base) if isinstance(base, Mapping) else {}
    if any(key in changes for key in ORIGINS):
        merged = {key: value for key, value in merged.items() if key not in (*ORIGINS, "format")}
    for key, change in changes.items():
        if change is False and (path == "init" or key not in InitSettings.model_fields):
            if key not in merged:
                raise unknown(f"entry of [{path}]", key, merged)
            del merged[key]
        elif isinstance(change, Mapping):
            merged[key] = merge_init(merged.get(key, {}), change, f"{path}.{key}")
        else:
            merged[key] = change
    return merged
