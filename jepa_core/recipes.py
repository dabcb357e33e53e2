"""Recipes: a run written down. TOML files, `extends`, `key=value` overrides, resolved against the plugins.

What is unusual: a recipe is resolved at once, so every section is an instance of the settings class of
the component it names and a mistake is found before anything is built. When an override swaps a
component (`masker.name=random`), the settings given for the old one are dropped, except those the new
one declares as `carried` (an image size, say, which speaks of the task and not of the component).

Sections: variant, data, encoder, predictor, masker, target_update, objective, each one component;
terms.* (further objectives) and probes.*, any number; transform, optimizer, train, kernels: the engine's own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tomlkit

from jepa_core import plugins
from jepa_core.data import TransformSettings
from jepa_core.errors import UserError, unknown
from jepa_core.mistakes import shown
from jepa_core.recipe_files import base_of, find, parsed
from jepa_core.recipe_files import names as names
from jepa_core.settings import (
    ComponentSettings,
    KernelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    Settings,
    SourceSettings,
    TrainSettings,
    parse,
)

Table = dict[str, Any]

ONE = ("variant", "data", "encoder", "predictor", "masker", "target_update", "objective")
MANY = {"terms": "objective", "probes": "probe"}
ENGINE: dict[str, type[Settings]] = {
    "transform": TransformSettings,
    "optimizer": OptimizerSettings,
    "train": TrainSettings,
    "kernels": KernelSettings,
}


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every section is the settings object of the component it names."""

    name: str
    seed: int
    variant: ComponentSettings
    data: SourceSettings
    encoder: ComponentSettings
    predictor: ComponentSettings
    masker: ComponentSettings
    target_update: ComponentSettings
    objective: ObjectiveSettings
    transform: TransformSettings
    optimizer: OptimizerSettings
    train: TrainSettings
    kernels: KernelSettings = field(default_factory=KernelSettings)
    terms: Mapping[str, ObjectiveSettings] = field(default_factory=dict)
    probes: Mapping[str, ComponentSettings] = field(default_factory=dict)

    @classmethod
    def resolve(cls, table: Table) -> Recipe:
        """From a TOML table without `extends`. Raises UserError for the first thing that is wrong."""
        known = [f.name for f in fields(cls)]
        for key in table:
            if key not in known:
                raise unknown("section", key, known)
        table = _merge(DEFAULTS, table)
        sections: Table = {"name": _title(table.get("name", "unnamed")), "seed": _seed(table.get("seed", 0))}
        for section in ONE:
            sections[section] = _component(section, section, table.get(section))
        for section, kind in MANY.items():
            entries = {_entry(section, key): entry for key, entry in table.get(section, {}).items()}
            sections[section] = {
                key: _component(f"{section}.{key}", kind, entry) for key, entry in entries.items()
            }
        for section, model in ENGINE.items():
            sections[section] = parse(model, _table(section, table.get(section, {})), section)
        return cls(**sections)

    def to_table(self) -> Table:
        """Plain values, every default written out; `Recipe.resolve` takes them back."""
        table: Table = {"name": self.name, "seed": self.seed}
        for section in (*ONE, *ENGINE):
            table[section] = _plain(getattr(self, section))
        for section in MANY:
            table[section] = {key: _plain(entry) for key, entry in getattr(self, section).items()}
        return table

    def to_toml(self) -> str:
        """The resolved recipe as a TOML document."""
        return tomlkit.dumps(self.to_table())


DEFAULTS: Table = {
    "variant": {"name": "jepa"},
    "target_update": {"name": "ema"},
    "objective": {"name": "smooth_l1"},
    "probes": {"knn": {"name": "knn"}, "linear": {"name": "linear"}},
}
"""What a recipe may leave out: each section, and in a section the name."""


def load_recipe(name_or_path: str | Path, *overrides: str) -> Recipe:
    """A recipe by name (`ijepa/demo`) or from a .toml file, with `key=value` overrides, resolved.

    Values are TOML (`3`, `1e-3`, `true`, `[0.15, 0.2]`, `"text"`); what is not, is taken as text.
    Raises UserError for an unknown recipe, section, component or setting, or a value out of range.
    """
    return Recipe.resolve(with_overrides(read(name_or_path), overrides))


def read(name_or_path: str | Path, above: tuple[Path, ...] = ()) -> Table:
    """The table of a recipe, what it extends merged in; `above` are the recipes that extend it."""
    path = find(name_or_path).resolve()
    if path in above:
        raise UserError(
            f"recipes extend each other in a circle: {' → '.join(p.name for p in (*above, path))}"
        )
    table = parsed(path)
    base = table.pop("extends", None)
    name = table.pop("name", _name_of(path, name_or_path))
    if base is not None:
        table = _merge(read(base_of(path, base), (*above, path)), table)
    return {**table, "name": name}


def with_overrides(table: Table, overrides: tuple[str, ...] | list[str]) -> Table:
    """`table` with each `section.key=value` set; swaps of components come first."""
    changes: Table = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        path = key.strip().split(".")
        if not sign or not all(path):
            raise UserError(f"override {text!r} is not of the form section.setting=value")
        if not value.strip():
            raise UserError(f"override {text!r} has no value after the =")
        _set(changes, path, _value(value.strip()), text)
    return _merge(_merge(DEFAULTS, table), changes)


def _set(table: Table, path: list[str], value: Any, text: str) -> None:
    """Sets what one override says. `masker=random` is short for `masker.name=random`, beside others too."""
    short = path[-1] in ONE if len(path) == 1 else len(path) == 2 and path[0] in MANY
    if short and isinstance(value, str):
        path = [*path, "name"]
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"override {text!r} sets a part of something that another override sets whole")
    if isinstance(table.get(path[-1]), dict):
        raise UserError(f"override {text!r} sets the whole of something that another override sets a part of")
    table[path[-1]] = value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(base: Table, changes: Table) -> Table:
    """`base` with `changes` on top, table by table; a changed component drops the old one's settings."""
    merged = dict(base)
    for key, change in changes.items():
        kind = key if key in ONE else None
        if key in MANY:
            merged[key] = dict(base.get(key, {}))
            for entry, inner in _table(key, change).items():
                merged[key][entry] = _merge_component(
                    MANY[key], _named(merged[key].get(entry, {})), _named(inner)
                )
        elif kind:
            merged[key] = _merge_component(kind, _named(base.get(key, {})), _named(change))
        elif isinstance(change, dict):
            merged[key] = _settings(_table(key, base.get(key, {})), change)
        else:
            merged[key] = change
    return merged


def _merge_component(kind: str, old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    name = new.get("name", old.get("name"))
    if isinstance(name, str) and "name" in old and name != old["name"]:
        carried = plugins.get().catalogue(kind).find(name).Config.carried
        old = {key: value for key, value in old.items() if key in carried}
    return {**old, **{key: _settings(old.get(key), value) for key, value in new.items()}}


def _settings(old: Any, new: Any) -> Any:
    """A setting that is a table itself (`encoder.arguments.depth=3`) keeps what is not named."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _settings(old.get(key), value) for key, value in new.items()}}


def _entry(section: str, name: str) -> str:
    """The name of a term or probe: in a file of metrics it is a key, in a command a word."""
    taken = {"terms": "prediction"}.get(section)
    if name == taken:
        raise UserError(f"[{section}.{name}]: this name is that of [objective]; choose another")
    if not name.isidentifier():
        raise UserError(f"[{section}.{name!r}]: expected a name of letters, digits and underscores")
    if section == "terms" and _taken_by_torch(name):
        raise UserError(f"[{section}.{name}]: torch's modules have something of this name; choose another")
    return name


def _taken_by_torch(name: str) -> bool:
    """Whether a module cannot have a part of this name, such as `train` or `forward`."""
    from torch import nn

    return hasattr(nn.ModuleDict(), name)


def _component(section: str, kind: str, entry: Any) -> ComponentSettings:
    if entry is None:
        known = ", ".join(sorted(plugins.get().catalogue(kind).classes))
        raise UserError(f"the recipe has no section [{section}]; it needs {section}.name, one of: {known}")
    table = _table(section, _named(entry))
    if "name" not in table:
        known = ", ".join(sorted(plugins.get().catalogue(kind).classes))
        raise UserError(f"section [{section}] has no name; known: {known}")
    offered = plugins.get().catalogue(kind).find(str(table["name"]))
    settings: ComponentSettings = parse(offered.Config, table, section)
    settings.check()
    return settings


def _named(entry: Any) -> Any:
    """`masker = "random"` is short for `masker.name = "random"`."""
    return {"name": entry} if isinstance(entry, str) else entry


def _table(section: str, value: Any) -> Table:
    if not isinstance(value, Mapping):
        raise UserError(f"section {section!r} is {shown(value)}; expected a table of settings")
    return dict(value)


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise UserError(f"setting 'seed' is {shown(value)}; expected a whole number from 0, below 2^63")
    return value


def _title(value: Any) -> str:
    """The name of a recipe; an override gives a bare number or date as such."""
    if not str(value).strip() or isinstance(value, list | dict):
        raise UserError(f"setting 'name' is {shown(value)}; expected a text")
    return str(value)


def _plain(settings: Settings) -> Table:
    """TOML has no null: what is None is left out, and its default is None."""
    return settings.model_dump(mode="json", exclude_none=True)


def _name_of(path: Path, asked: str | Path) -> str:
    return path.stem if str(asked).endswith(".toml") else str(asked)
