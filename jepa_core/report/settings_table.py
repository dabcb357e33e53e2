"""The settings of a run beside their defaults and the recipe it started from; and of several runs.

A setting's origin is one of: `run` (an override: it differs from the recipe of that name), `recipe` (the
recipe differs from the component's default) and `default`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from jepa_core.recipes.files import names
from jepa_core.recipes.load import load_recipe
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, ENGINE_SECTIONS, Recipe, flat

ASIDE = {"name", "data.workers", *(f"train.{key}" for key in ("device", "keep"))} | {
    f"train.{what}_every" for what in ("log", "eval", "checkpoint")
}
"""Settings that say where a run took place and how it was watched, and nothing about what it learned."""


@dataclass(frozen=True)
class SettingRow:
    """One setting of a run."""

    key: str
    value: str
    origin: str
    """`run`, `recipe` or `default`."""
    instead_of: str
    """What it would be otherwise: the recipe's value, or the default; '' where there is none."""
    means: str


def choices(recipe: Recipe, base: Recipe | None) -> list[SettingRow]:
    """Every setting of a resolved recipe, sections in order; `base` is the recipe it started from."""
    before = None if base is None else {key: _value(model, name) for key, model, name in _settings(base)}
    listed = [_choice(key, model, name, before) for key, model, name in _settings(recipe)]
    return [*listed, _seed(recipe, base)]


def base_of(recipe: Recipe) -> Recipe | None:
    """The installed recipe of the same name, or None."""
    return load_recipe(recipe.name) if recipe.name in names() else None


def _settings(recipe: Recipe) -> Iterator[tuple[str, BaseModel, str]]:
    """(key, the settings object it is in, its name there)."""
    sections = {section: getattr(recipe, section) for section in (*COMPONENT_SECTIONS, *ENGINE_SECTIONS)}
    for many in COMPONENT_TABLES:
        sections |= {f"{many}.{name}": entry for name, entry in getattr(recipe, many).items()}
    for section, model in sections.items():
        for name in type(model).model_fields:
            yield f"{section}.{name}", model, name


def _value(model: BaseModel, name: str) -> Any:
    return to_jsonable_python(getattr(model, name))


def _choice(key: str, model: BaseModel, name: str, before: Mapping[str, Any] | None) -> SettingRow:
    field, value = type(model).model_fields[name], _value(model, name)
    default = (
        None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
    )
    means = " ".join((field.description or "").split())
    if before is not None and before.get(key) != value:
        return SettingRow(key, text(value), "run", text(before.get(key)), means)
    if field.is_required():
        return SettingRow(key, text(value), "recipe", "", means)
    origin = "default" if default == value else "recipe"
    return SettingRow(key, text(value), origin, "" if origin == "default" else text(default), means)


def _seed(recipe: Recipe, base: Recipe | None) -> SettingRow:
    other = 0 if base is None else base.seed
    origin = "default" if recipe.seed == other else "run"
    means = "Of the initial weights, the order of the images, crops and masks."
    return SettingRow("seed", text(recipe.seed), origin, "" if origin == "default" else text(other), means)


def text(value: Any) -> str:
    """A setting as a recipe writes it; a dash for what is not set."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differences(recipes: Sequence[Recipe]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) for every setting in which runs differ, section by section."""
    tables = [flat(recipe.to_table()) for recipe in recipes]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    sections = list(dict.fromkeys(_section(key) for key in keys))
    keys.sort(key=lambda key: sections.index(_section(key)))  # stable: in a section they keep their order
    rows = [(key, [text(table.get(key)) for table in tables]) for key in keys if key not in ASIDE]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _section(key: str) -> str:
    return key.partition(".")[0]
