"""Recipes from TOML files, with what they extend and `key=value` overrides."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.recipes.files import base_of, find, parsed
from jepa_core.recipes.resolve import DEFAULTS, merge, resolve
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, Recipe, Table


def load_recipe(name_or_path: str | Path, *overrides: str) -> Recipe:
    """A recipe by name (`ijepa/demo`) or from a .toml file, with `key=value` overrides, resolved.

    Values are TOML (`3`, `1e-3`, `true`, `[0.15, 0.2]`, `"text"`); what is not, is taken as text.
    Raises UserError for an unknown recipe, section, component or setting, or a value out of range.
    """
    return resolve(with_overrides(read(name_or_path), overrides))


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
        table = merge(read(base_of(path, base), (*above, path)), table)
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
    return merge(merge(DEFAULTS, table), changes)


def _set(table: Table, path: list[str], value: Any, text: str) -> None:
    """Sets what one override says. `masker=random` is short for `masker.name=random`, beside others too."""
    short = (
        path[-1] in COMPONENT_SECTIONS if len(path) == 1 else len(path) == 2 and path[0] in COMPONENT_TABLES
    )
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


def _name_of(path: Path, asked: str | Path) -> str:
    return path.stem if str(asked).endswith(".toml") else str(asked)
