"""Recipes from TOML files, with what they extend and `key=value` overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.recipes.files import find, find_base
from jepa_core.recipes.resolve import merge, resolve
from jepa_core.recipes.swaps import report_dropped_settings
from jepa_core.recipes.toml_text import MAX_DEPTH, TooDeep, parse, read_file
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, DEFAULTS, Recipe, Table

MAX_BASES = 16
"""Recipes that extend one another."""


def load_recipe(name_or_path: str | Path, *overrides: str) -> Recipe:
    """A recipe by name (`ijepa/demo`) or from a .toml file, with `key=value` overrides, resolved.

    Values are TOML (`3`, `1e-3`, `true`, `[0.15, 0.2]`, `"text"`); what is not, is taken as text.
    `probes.linear=false` takes a probe (or a term) out. An override that swaps a component drops the old
    one's settings, which is logged as a warning where the recipe had set any.
    Raises UserError for an unknown recipe, section, component or setting, or a value out of range.
    """
    table = read(name_or_path)
    changed = with_overrides(table, overrides)
    recipe = resolve(changed)
    report_dropped_settings(table, changed)
    return recipe


def read(name_or_path: str | Path, above: tuple[Path, ...] = ()) -> Table:
    """The table of a recipe, merged over those that it extends; `above` are the recipes that extend it."""
    path = find(name_or_path).resolve()
    if path in above:
        raise UserError(
            f"recipes extend each other in a circle: {' → '.join(p.name for p in (*above, path))}"
        )
    if len(above) > MAX_BASES:
        raise UserError(f"recipe {above[0]} extends {len(above)} recipes; at most {MAX_BASES} are followed")
    table = read_file(path)
    base = table.pop("extends", None)
    name = table.pop("name", _name_of(path, name_or_path))
    if base is not None:
        table = merge(read(find_base(path, base), (*above, path)), table)
    return {**table, "name": name}


def with_overrides(table: Table, overrides: tuple[str, ...] | list[str]) -> Table:
    """`table` with each `section.key=value` set; swaps of components come first.

    Raises UserError for an override that is malformed or contradicts another one.
    """
    changes: Table = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        path = key.strip().split(".")
        if not sign or not all(path):
            raise UserError(f"override {text!r} is not of the form section.setting=value")
        if len(path) > MAX_DEPTH:
            raise UserError(f"override {text[:40]!r}… names {len(path)} tables inside one another")
        if not value.strip():
            raise UserError(f"override {text!r} has no value after the =")
        _set(changes, path, _value(value.strip(), text), text)
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


def _value(text: str, override: str) -> Any:
    """A value as TOML, or as the text that it is."""
    if "\n" in text or "\r" in text:  # further lines would be read as further settings
        return text
    try:
        return parse(f"value = {text}")["value"]
    except TooDeep as error:
        raise UserError(f"override {override[:40]!r}… cannot be used: {error}") from None
    except ValueError:
        return text


def _name_of(path: Path, asked: str | Path) -> str:
    return path.stem if str(asked).endswith(".toml") else str(asked)
