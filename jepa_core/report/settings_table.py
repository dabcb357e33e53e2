"""The settings of a run beside their defaults and the recipe it started from; and of several runs.

A setting's origin is one of: `run` (an override: it differs from the recipe of that name), `recipe` (the
recipe differs from the component's default) and `default`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jepa_core.recipes.files import names
from jepa_core.recipes.load import load_recipe
from jepa_core.settings.describe import Setting, settings_of
from jepa_core.settings.recipe import Recipe, flatten_table

ASIDE = {"name", "data.workers", *(f"train.{key}" for key in ("device", "keep"))} | {
    f"train.{what}_every" for what in ("log", "eval", "checkpoint")
}
"""Settings that change where a run is computed and what is logged, and not what it learns."""


@dataclass(frozen=True)
class SettingRow:
    """One setting of a run as texts for a table."""

    key: str
    value: str
    origin: str
    """`run`, `recipe` or `default`."""
    instead_of: str
    """What it would be otherwise: the recipe's value, or the default; '' where there is none."""
    means: str


def choices(recipe: Recipe, base: Recipe | None) -> list[SettingRow]:
    """Every setting of a resolved recipe, sections in order; `base` is the recipe it started from."""
    before = None if base is None else {setting.path: setting.value for setting in settings_of(base)}
    return [*(_row(setting, before) for setting in settings_of(recipe)), _seed(recipe, base)]


def base_of(recipe: Recipe) -> Recipe | None:
    """The installed recipe of the same name, or None."""
    return load_recipe(recipe.name) if recipe.name in names() else None


def _row(setting: Setting, before: Mapping[str, Any] | None) -> SettingRow:
    value, instead_of = text(setting.value), ""
    if before is not None and before.get(setting.path) != setting.value:
        origin, instead_of = "run", text(before.get(setting.path))
    elif setting.required:
        origin = "recipe"
    elif setting.changed:
        origin, instead_of = "recipe", text(setting.default)
    else:
        origin = "default"
    return SettingRow(setting.path, value, origin, instead_of, setting.means)


def _seed(recipe: Recipe, base: Recipe | None) -> SettingRow:
    usual = 0 if base is None else base.seed
    origin = "default" if recipe.seed == usual else "run"
    means = "Of the initial weights, the order of the images, crops and masks."
    return SettingRow("seed", text(recipe.seed), origin, "" if origin == "default" else text(usual), means)


def text(value: Any) -> str:
    """A setting as a recipe writes it; a dash for what is not set."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differences(recipes: Sequence[Recipe]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) for every setting in which runs differ, section by section."""
    tables = [flatten_table(recipe.to_table()) for recipe in recipes]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    sections = list(dict.fromkeys(_section(key) for key in keys))
    keys.sort(key=lambda key: sections.index(_section(key)))  # stable: in a section they keep their order
    rows = [(key, [text(table.get(key)) for table in tables]) for key in keys if key not in ASIDE]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _section(key: str) -> str:
    return key.partition(".")[0]
