"""What a swap of components drops: settings that the recipe gave to the old one and the new one lacks.

A comparison of two encoders is confounded where one ran with settings that the other silently lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pydantic_core import to_jsonable_python

from jepa_core import plugins
from jepa_core.errors import UserError
from jepa_core.settings.describe import toml
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, DEFAULTS, Table

log = logging.getLogger("jepa.recipes")


def report_dropped_settings(before: Table, after: Table) -> None:
    """Logs one warning that lists what the overrides' swaps dropped from a recipe's table, if anything."""
    swaps = [
        f"{section} {old['name']} → {new['name']} without {_list_settings(lost)}"
        for section, kind, old, new in _swaps(before, after)
        if (lost := _dropped_settings(kind, old, new))
    ]
    if swaps:
        log.warning("a swapped component starts from its own defaults: %s", "; ".join(swaps))


def _swaps(before: Table, after: Table) -> Iterator[tuple[str, str, Table, Table]]:
    """(section, kind, old component's table, new one's) for each component that has another name."""
    for section, kind, old in _components(before):
        new: Any = after
        for part in section.split("."):
            new = new.get(part) if isinstance(new, dict) else None
        if isinstance(new, dict) and "name" in new and new["name"] != old["name"]:
            yield section, kind, old, new


def _components(table: Table) -> Iterator[tuple[str, str, Table]]:
    """(section, kind, table) of each component that a recipe names."""
    sections = [(section, section, table.get(section)) for section in COMPONENT_SECTIONS]
    for section, kind in COMPONENT_TABLES.items():
        entries = table.get(section)
        if isinstance(entries, dict):
            sections += [(f"{section}.{name}", kind, entry) for name, entry in entries.items()]
    for section, kind, entry in sections:
        if isinstance(entry, str):
            yield section, kind, {"name": entry}
        elif isinstance(entry, dict) and "name" in (named := {**DEFAULTS.get(section, {}), **entry}):
            yield section, kind, named


def _dropped_settings(kind: str, old: Table, new: Table) -> Table:
    """The settings of `old` that `new` lacks and that differ from the old component's defaults."""
    try:
        fields = plugins.registry().catalogue(kind).find(str(old["name"])).Config.model_fields
    except UserError:  # a name that is not installed: nothing is known of its defaults
        fields = {}
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True), fallback=str)
        for name, field in fields.items()
        if not field.is_required()
    }
    return {
        key: value
        for key, value in old.items()
        if key not in new and not (key in defaults and value == defaults[key])
    }


def _list_settings(settings: Table) -> str:
    return ", ".join(f"{key} = {toml(value)}" for key, value in settings.items())
