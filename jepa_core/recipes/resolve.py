"""A recipe's table to a `Recipe`: every section becomes the settings of the component that it names.

What is unusual: a recipe is resolved at once, so a mistake is found before anything is built. When an
override swaps a component (`masker.name=random`), the settings given for the old one are dropped, except
those the new one declares as `carried` (an image size, say, which belongs to the task and not to the
component).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError, printable, unknown
from jepa_core.recipes.evaluations import read_evaluations
from jepa_core.recipes.initial import merge_init, read_init
from jepa_core.recipes.toml_text import TooDeep, check_depth
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.parse import parse
from jepa_core.settings.recipe import (
    COMPONENT_SECTIONS,
    COMPONENT_TABLES,
    DEFAULTS,
    ENGINE_SECTIONS,
    REMOVED,
    Recipe,
    Table,
)
from jepa_core.settings.roles import ROLES
from jepa_core.settings.validation_errors import show

log = logging.getLogger("jepa.recipes")


def resolve(table: Table) -> Recipe:
    """A recipe from a TOML table without `extends`. Raises UserError for the first thing that is wrong."""
    known = [f.name for f in fields(Recipe)]
    for key in table:
        if key not in known:
            raise unknown("section", key, known)
        try:
            check_depth(table[key])
        except TooDeep as error:
            raise UserError(f"section {show(key)}: {error}") from None
    table = merge(DEFAULTS, table)
    for section in (*COMPONENT_SECTIONS, *COMPONENT_TABLES, *ENGINE_SECTIONS, "init"):
        _check_values(section, table.get(section))
    table["target_updates"] = _target_updates(table)
    sections: Table = {"name": _title(table.get("name", "unnamed")), "seed": _seed(table.get("seed", 0))}
    for section in COMPONENT_SECTIONS:
        sections[section] = _component(section, section, table.get(section))
    for section, kind in COMPONENT_TABLES.items():
        entries = {_entry(section, key): entry for key, entry in table.get(section, {}).items()}
        sections[section] = {
            key: _component(f"{section}.{key}", kind, entry)
            for key, entry in entries.items()
            if entry is not REMOVED
        }
    for section, model in ENGINE_SECTIONS.items():
        sections[section] = parse(model, _table(section, table.get(section, {})), section)
    sections["init"] = read_init(table.get("init", {}))
    sections["evaluations"] = read_evaluations(_table("evaluations", table.get("evaluations", {})))
    recipe = Recipe(**sections)
    if recipe.train.eval_every and "knn" not in recipe.probes:
        raise UserError(
            "train.eval_every measures with the probe knn, which the recipe takes out (probes.knn=false)"
        )
    return recipe


def _target_updates(table: Table) -> Table:
    """The target update of each named encoder, `none` where the recipe does not say; in their order.

    Raises UserError for one of an encoder that is not there.
    """
    encoders = [name for name, entry in table.get("encoders", {}).items() if entry is not REMOVED]
    given = table.get("target_updates", {})
    for name, entry in given.items():
        if name not in encoders and entry is not REMOVED:
            known = ", ".join(encoders) or "none"
            raise UserError(f"[target_updates.{name}]: there is no [encoders.{name}]; known: {known}")
    return {name: given.get(name, {"name": "none"}) for name in encoders}


def _check_values(path: str, value: Any) -> None:
    """Raises UserError for a value that TOML can hold and no file name, tensor or JSON reader can."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_values(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(path, inner)
    elif isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise UserError(f"setting {path!r} is {show(value)}; expected a text in UTF-8 without NUL")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"setting {path!r} is {show(value)}; expected a whole number below 2^63")


def merge(base: Table, changes: Table) -> Table:
    """`base` with `changes` on top, table by table; a changed component drops the old one's settings.

    Raises UserError for a term or probe that is taken out and not there.
    """
    merged = dict(base)
    for key, change in changes.items():
        if key in COMPONENT_TABLES:
            merged[key] = _merge_entries(key, base.get(key, {}), _table(key, change))
        elif key in COMPONENT_SECTIONS:
            merged[key] = _merge_component(
                key, _as_table(base.get(key, {})), _as_table(change), DEFAULTS.get(key, {}).get("name")
            )
        elif key == "init" and isinstance(change, dict):
            merged[key] = merge_init(base.get(key, {}), change)
        elif key == "train" and isinstance(change, dict):
            merged[key] = _merge_train(_table(key, base.get(key, {})), change)
        elif isinstance(change, dict):
            merged[key] = _settings(_table(key, base.get(key, {})), change)
        else:
            merged[key] = change
    return merged


def _merge_entries(section: str, base: Any, changes: Table) -> Table:
    """The entries of a section that has several: `probes.linear = false` takes one out."""
    merged = _table(section, base)
    known = {**DEFAULTS.get(section, {}), **merged}
    for name, change in changes.items():
        if change is REMOVED and name not in known:
            raise unknown(f"entry of [{section}]", name, known)
        if change is REMOVED and name not in DEFAULTS.get(section, {}):
            del merged[name]
        elif change is REMOVED:  # the mark stays, for the defaults are merged under the recipe later
            merged[name] = REMOVED
        else:
            kind = COMPONENT_TABLES[section]
            merged[name] = _merge_component(kind, _as_table(merged.get(name, {})), _as_table(change))
    return merged


def _merge_component(kind: str, old: Any, new: Any, default: str | None = None) -> Any:
    """`old` with `new` on top; under another name, of the old settings the `carried` ones alone.

    `default` is the name of a component that `old` does not name.
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    before = old.get("name", default)
    name = new.get("name", before)
    if isinstance(name, str) and before is not None and name != before:
        carried = plugins.registry().catalogue(kind).find(name).Config.carried
        old = {key: value for key, value in old.items() if key in carried}
    return {**old, **{key: _settings(old.get(key), value) for key, value in new.items()}}


def _settings(old: Any, new: Any) -> Any:
    """A setting that is a table itself (`encoder.arguments.depth=3`) keeps its other keys."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _settings(old.get(key), value) for key, value in new.items()}}


def _merge_train(base: Table, change: Table) -> Table:
    """A budget of hours takes the place of a number of steps, which would go before it."""
    if "hours" in change and "steps" not in change:
        base = {key: value for key, value in base.items() if key != "steps"}
    return {**base, **change}


def _entry(section: str, name: str) -> str:
    """The name of an entry, checked: it becomes a key of metrics.jsonl, a word of a command, a module."""
    if (section, name) == ("terms", "prediction"):
        raise UserError(f"[{section}.{name}]: this name is that of [objective]; choose another")
    if not name.isidentifier():
        raise UserError(f"[{section}.{name!r}]: expected a name of letters, digits and underscores")
    if section == "encoders" and name in ROLES:
        raise UserError(f"[{section}.{name}]: this name is a role of [encoder]; choose another")
    if section in ("terms", "encoders") and _is_torch_attribute(name):
        raise UserError(f"[{section}.{name}]: torch's modules have something of this name; choose another")
    return name


def _is_torch_attribute(name: str) -> bool:
    """Whether torch's modules have an attribute of this name, such as `train` or `forward`."""
    from torch import nn

    return hasattr(nn.ModuleDict(), name)


def _component(section: str, kind: str, entry: Any) -> ComponentSettings:
    if entry is None:
        known = ", ".join(sorted(plugins.registry().catalogue(kind).classes))
        raise UserError(f"the recipe has no section [{section}]; it needs {section}.name, one of: {known}")
    table = _table(section, _as_table(entry))
    if "name" not in table:
        known = ", ".join(sorted(plugins.registry().catalogue(kind).classes))
        raise UserError(f"section [{section}] has no name; known: {known}")
    offered = plugins.registry().catalogue(kind).find(str(table["name"]))
    settings: ComponentSettings = parse(offered.Config, table, section)
    settings.check()
    return settings


def _as_table(entry: Any) -> Any:
    """`masker = "random"` is short for `masker.name = "random"`."""
    return {"name": entry} if isinstance(entry, str) else entry


def _table(section: str, value: Any) -> Table:
    if not isinstance(value, Mapping):
        raise UserError(f"section {section!r} is {show(value)}; expected a table of settings")
    return dict(value)


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise UserError(f"setting 'seed' is {show(value)}; expected a whole number from 0, below 2^63")
    return value


def _title(value: Any) -> str:
    """The name of a recipe; an override gives a bare number or date as such."""
    if isinstance(value, list | dict) or not str(value).strip():
        raise UserError(f"setting 'name' is {show(value)}; expected a text")
    if printable(value) != str(value):
        raise UserError(f"setting 'name' is {show(value)}; expected a text without control characters")
    return str(value)
