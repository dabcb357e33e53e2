"""Every component and recipe of a plugin, examined: what `jepa plugins check` shows.

A component is built with the settings that the plugin's recipe `selftest` gives it, and with its defaults
where that does not name it. A class that is offered under several names is asked once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError, unknown
from jepa_core.plugins import KINDS, Catalogue
from jepa_core.recipes.files import names
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, Recipe
from jepa_core.testing import model_case, models
from jepa_core.testing.outcomes import Outcome, outcomes
from jepa_core.testing.recipes import RecipeCase
from jepa_core.testing.subject import Subject
from jepa_core.testing.suites import behaviour, examine_recipe, not_asked, settings_outcomes


def examine_plugin(name: str, *, read_data: bool = False) -> Iterator[Outcome]:
    """Every property of everything a plugin offers; of its data sources only where `read_data` says so.

    Raises UserError for a plugin that is not there, or not loaded.
    """
    catalogues = [plugins.registry().catalogue(kind) for kind in KINDS]
    recipes = [recipe for recipe in names() if recipe.partition("/")[0] == name]
    found = {plugin.name: plugin for plugin in plugins.registry().statuses}
    if name not in found:
        raise unknown("plugin", name, found)
    if found[name].state != "loaded":
        raise UserError(f"plugin {name!r} is {found[name].state}: {found[name].error}".rstrip(": "))
    selftest = _resolved(f"{name}/selftest", recipes)
    for catalogue in catalogues:
        for component, known in _offered(catalogue, name).items():
            subject = _subject(catalogue, component, known, selftest)
            yield from settings_outcomes(subject)
            if subject.kind == "data" and not read_data:
                yield not_asked(subject, "reads data: `jepa plugins check NAME --data`, or check_source")
            else:
                yield from _behaviour(subject, selftest)
    for recipe in recipes:
        yield from examine_recipe(recipe)


def _subject(catalogue: Catalogue, component: type, known: list[str], selftest: Recipe | None) -> Subject:
    """Under the name that `selftest` picks, with its settings; else under the first that is no pattern."""
    given = [] if selftest is None else _given(selftest).get(catalogue.kind, [])
    chosen = [entry for entry in given if catalogue.find(entry["name"]) is component]
    plain = [name for name in known if "*" not in name]
    name = chosen[0]["name"] if chosen else (plain or known)[0]
    values = {key: value for key, value in chosen[0].items() if key != "name"} if chosen else {}
    return Subject(catalogue.kind, component, name, values)


def _behaviour(subject: Subject, selftest: Recipe | None) -> list[Outcome]:
    """What its suite asks. A variant that wants parts of its own is asked with those of `selftest`."""
    try:
        return list(behaviour(subject))
    except UserError as error:
        if subject.kind == "variant" and selftest is not None and selftest.variant.name == subject.name:
            return list(outcomes("variant", subject.name, models.CHECKS, model_case.of_recipe(selftest)))
        return [not_asked(subject, f"{error}; what a recipe called selftest has is asked there")]


def _offered(catalogue: Catalogue, plugin: str) -> dict[type, list[str]]:
    """The plugin's classes of a kind, each with its names."""
    found: dict[type, list[str]] = {}
    for name, component in catalogue.classes.items():
        if catalogue.owners[name] == plugin:
            found.setdefault(component, []).append(name)
    return found


def _resolved(recipe: str, known: list[str]) -> Recipe | None:
    """A recipe of the plugin; None where it is not there or wrong."""
    if recipe not in known:
        return None
    try:
        return RecipeCase(recipe).recipe
    except UserError:  # what is wrong with it is told where the recipe itself is examined
        return None


def _given(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The settings that a recipe gives to components, by kind."""
    table = recipe.to_table()
    found = {section: [table[section]] for section in COMPONENT_SECTIONS}
    for section, kind in COMPONENT_TABLES.items():
        found.setdefault(kind, []).extend(table[section].values())
    return found
