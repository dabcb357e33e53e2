"""Every component and recipe of a plugin, examined: what `jepa plugins check` shows.

A component is built with the settings that the plugin's recipe `selftest` gives it, and with its defaults
where that does not name it. A class that is offered under several names is asked once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError, unknown
from jepa_core.plugins import Catalogue
from jepa_core.protocols import KINDS
from jepa_core.recipe_files import names
from jepa_core.recipes import MANY, ONE
from jepa_core.testing.common import Subject
from jepa_core.testing.outcomes import Outcome
from jepa_core.testing.recipes import RecipeCase
from jepa_core.testing.suites import behaviour, examine_recipe, refused, settings_outcomes


def examine_plugin(name: str) -> Iterator[Outcome]:
    """Every property of everything a plugin offers.

    Raises UserError for a plugin that is not there, or not loaded.
    """
    catalogues = [plugins.get().catalogue(kind) for kind in KINDS]
    recipes = [recipe for recipe in names() if recipe.partition("/")[0] == name]
    found = {plugin.name: plugin for plugin in plugins.get().found}
    if name not in found:
        raise unknown("plugin", name, found)
    if found[name].state != "loaded":
        raise UserError(f"plugin {name!r} is {found[name].state}: {found[name].error}".rstrip(": "))
    given = _given(f"{name}/selftest", recipes)
    for catalogue in catalogues:
        for component, known in _offered(catalogue, name).items():
            yield from _component(catalogue.kind, component, known, given.get(catalogue.kind, []))
    for recipe in recipes:
        yield from examine_recipe(recipe)


def _component(
    kind: str, component: type, known: list[str], given: list[dict[str, Any]]
) -> Iterator[Outcome]:
    """Under the name that `selftest` picks, else the first that is no pattern."""
    catalogue = plugins.get().catalogue(kind)
    chosen = [entry for entry in given if catalogue.find(entry["name"]) is component]
    plain = [name for name in known if "*" not in name]
    name = chosen[0]["name"] if chosen else (plain or known)[0]
    values = {key: value for key, value in chosen[0].items() if key != "name"} if chosen else {}
    subject = Subject(kind, component, name, values)
    yield from settings_outcomes(subject)
    try:
        yield from list(behaviour(subject))
    except UserError as error:
        yield refused(kind, name, error)


def _offered(catalogue: Catalogue, plugin: str) -> dict[type, list[str]]:
    """The plugin's classes of a kind, each with its names."""
    found: dict[type, list[str]] = {}
    for name, component in catalogue.classes.items():
        if catalogue.owners[name] == plugin:
            found.setdefault(component, []).append(name)
    return found


def _given(recipe: str, known: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The settings that a recipe gives to components, by kind; none where it is not there or wrong."""
    if recipe not in known:
        return {}
    try:
        table = RecipeCase(recipe).recipe.to_table()
    except UserError:  # what is wrong with it is told where the recipe itself is examined
        return {}
    found = {section: [table[section]] for section in ONE}
    for section, kind in MANY.items():
        found.setdefault(kind, []).extend(table[section].values())
    return found
