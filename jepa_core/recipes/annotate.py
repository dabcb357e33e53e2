"""Recipes for people: the head comment of a recipe's file, and a resolved recipe with comments.

The head of a recipe file, which `jepa recipes` shows:

    # ijepa/demo: what it is, in one line
    # cost: time and machine
    # expected: the result, and who measured it
    # data: what is needed and how it comes
    #
    # Free text.

A line that begins with `#` and two or more blanks goes on with the one above. The names are the keys of
`Head`; of all but the first line any may be missing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa_core import plugins
from jepa_core.settings.base import Settings
from jepa_core.settings.describe import Setting, bounds, describe, sections_of, settings_of, summary, toml
from jepa_core.settings.evaluations import unwrap
from jepa_core.settings.initial import InitSettings
from jepa_core.settings.recipe import COMPONENT_TABLES, ENGINE_SECTIONS, Recipe

WIDTH = 100
OWN = {
    "name": "What the run is called in tables and in the name of its folder.",
    "seed": "Of initial weights, samples, crops and masks: the same seed gives the same run.",
}


@dataclass(frozen=True)
class Head:
    """The head comment of a recipe's file; empty texts where it has none."""

    what: str = ""
    cost: str = ""
    expected: str = ""
    data: str = ""


def read_head(path: Path) -> Head:
    """The head comment of a recipe's file, bytes that are not UTF-8 replaced."""
    texts: dict[str, str] = {}
    last = ""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines()):
        text = line.removeprefix("#")
        if text == line or not text.strip():
            break
        if last and text.startswith("  "):
            texts[last] += f" {text.strip()}"
            continue
        key, _, value = text.strip().partition(": ")
        last = "what" if number == 0 else key
        texts[last] = value
    return Head(**{key: text for key, text in texts.items() if key in Head.__dataclass_fields__})


def to_json(recipe: Recipe, head: Head) -> dict[str, Any]:
    """The recipe as a table, its head, and every setting in words, as plain values."""
    settings = [setting.facts_in_recipe() for setting in settings_of(recipe)]
    return {"name": recipe.name, **asdict(head), "recipe": recipe.to_table(), "settings": settings}


def to_commented_toml(recipe: Recipe, head: Head) -> str:
    """The resolved recipe as TOML that loads again, with what each setting means above it."""
    lines = [f"# {recipe.name}, resolved{f': {head.what}' if head.what else ''}"]
    facts = {key: text for key, text in asdict(head).items() if key != "what" and text}
    lines += [line for key, text in facts.items() for line in _comment(f"{key}: {text}", hang=2)]
    lines += ["#", "# Behind a setting that differs from its component's default stands that default.", ""]
    for key, means in OWN.items():
        lines += [f"# {means}", f"{key} = {toml(getattr(recipe, key))}"]
    for section in COMPONENT_TABLES:
        if removed := recipe.removed_entries(section):
            lines += ["", "# Taken out.", f"[{section}]", *(f"{name} = false" for name in removed)]
    plain = {name: choice for name, choice in recipe.evaluations.items() if isinstance(choice, bool)}
    if plain:
        choices = (f"{name} = {toml(choice)}" for name, choice in plain.items())
        lines += ["", "# Evaluations that are left out, or asked for.", "[evaluations]", *choices]
    for section, what, settings in _sections(recipe):
        lines += ["", *_comment(what), f"[{section}]", *_lines(section, settings)]
    return "\n".join(lines) + "\n"


def _sections(recipe: Recipe) -> Iterator[tuple[str, str, list[Setting]]]:
    """(name of the table, what it is, its settings) for each section of a recipe."""
    for section, kind, settings in sections_of(recipe):
        yield section, _what(section, kind, settings), list(describe(type(settings), section, settings))


def _what(section: str, kind: str, settings: Settings) -> str:
    """What a section sets, from the docstring of its component or of the engine's settings."""
    if isinstance(settings, InitSettings):
        return f"Weights that it starts with: {settings.words()}{', frozen' if settings.frozen else ''}."
    if kind in ENGINE_SECTIONS:
        return summary(type(settings))
    if kind == "evaluation":
        return summary(unwrap(plugins.registry().functions(kind)[0][section.partition(".")[2]]))
    name: str = settings.name  # type: ignore[attr-defined]  # every component's settings have it
    return summary(plugins.registry().catalogue(kind).find(name))


def _lines(section: str, settings: list[Setting]) -> Iterator[str]:
    """The lines of a table; what is not set is a comment, and a nested table follows the plain settings."""
    table = section
    for setting in settings:
        parent = setting.path.rpartition(".")[0]
        if parent != table:
            yield from ("", f"[{parent}]")
            table = parent
        if setting.name == "name":
            yield f"name = {toml(setting.value)}"
            continue
        yield from _comment(f"{setting.means}{bounds(setting.allowed, setting.means, setting.value)}")
        if setting.value is None:
            yield f"# {setting.key} =  (not set)"
        else:
            default = f"  # default: {toml(setting.default)}" if setting.changed else ""
            yield f"{setting.key} = {toml(setting.value)}{default}"


def _comment(text: str, hang: int = 0) -> list[str]:
    clean = re.sub(r"\s+", " ", text)
    return textwrap.wrap(
        clean,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# " + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
