"""Checks of all components and recipes of a plugin, for `jepa plugins check`.

A component is built with the settings that the plugin's recipe `selftest` gives it, or with its defaults
where that recipe does not use it. A class that is offered under several names is checked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError, unknown
from jepa_core.plugins import KINDS, Catalogue
from jepa_core.recipes.files import names
from jepa_core.runtime.plugin_calls import PluginError, call_plugin
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, Recipe
from jepa_core.testing.outcomes import Outcome
from jepa_core.testing.own_parts import behaviour_in_recipe, needs_own_parts
from jepa_core.testing.recipes import RecipeCase
from jepa_core.testing.subject import Subject
from jepa_core.testing.suites import (
    behaviour,
    examine_evaluation,
    examine_recipe,
    not_asked,
    settings_outcomes,
)


def examine_plugin(name: str, *, read_data: bool = False) -> Iterator[Outcome]:
    """Every property of everything a plugin offers; of its data sources only where `read_data` says so.

    Raises UserError for a plugin that is not there, or not loaded.
    """
    catalogues = [plugins.registry().catalogue(kind) for kind in KINDS]
    recipes = [recipe for recipe in names() if recipe.partition("/")[0] == name]
    statuses = {plugin.name: plugin for plugin in plugins.registry().statuses}
    if name not in statuses:
        raise unknown("plugin", name, statuses)
    if statuses[name].state != "loaded":
        raise UserError(f"plugin {name!r} is {statuses[name].state}: {statuses[name].error}".rstrip(": "))
    selftest = _resolve(f"{name}/selftest", recipes)
    for catalogue in catalogues:
        for component, known in _classes_of(catalogue, name).items():
            subject = _subject(catalogue, component, known, selftest)
            yield from settings_outcomes(subject)
            if subject.kind == "data" and not read_data:
                yield not_asked(subject, "reads data: `jepa plugins check NAME --data`, or check_source")
            else:
                yield from _examine(subject.kind, subject.name, partial(_behaviour, subject, selftest))
    for evaluation, owner in plugins.registry().functions("evaluation")[1].items():
        if owner == name:
            yield from _examine_function(evaluation, selftest)
    for recipe in recipes:
        yield from _examine("recipe", recipe, partial(examine_recipe, recipe))


def _examine(kind: str, name: str, examine: Callable[[], list[Outcome]]) -> list[Outcome]:
    """The outcomes of one component or recipe; one that cannot even be made has failed `behaviour`."""
    try:
        return call_plugin(examine)
    except PluginError as error:
        return [Outcome(kind, name, "behaviour", "fails", str(error))]


def _examine_function(evaluation: str, selftest: Recipe | None) -> list[Outcome]:
    """The outcomes of an evaluation with the model of the plugin's recipe `selftest`."""
    if selftest is None:
        reason = "its plugin has no recipe called selftest, whose model it would get"
        return [Outcome("evaluation", evaluation, "behaviour", "not asked", reason)]
    return _examine("evaluation", evaluation, partial(examine_evaluation, evaluation, selftest))


def _subject(catalogue: Catalogue, component: type, known: list[str], selftest: Recipe | None) -> Subject:
    """With the name and settings of `selftest`, or its first name that is no pattern and its defaults."""
    entries = [] if selftest is None else _settings_by_kind(selftest).get(catalogue.kind, [])
    matching = [entry for entry in entries if catalogue.find(entry["name"]) is component]
    plain = [name for name in known if "*" not in name]
    name = matching[0]["name"] if matching else (plain or known)[0]
    values = {key: value for key, value in matching[0].items() if key != "name"} if matching else {}
    return Subject(catalogue.kind, component, name, values)


def _behaviour(subject: Subject, selftest: Recipe | None) -> list[Outcome]:
    """The outcomes of its kind's suite. A component that needs parts of its own gets those of `selftest`."""
    if selftest is not None and needs_own_parts(subject, selftest):
        return list(behaviour_in_recipe(subject, selftest))
    try:
        return list(behaviour(subject))
    except UserError as error:
        return [not_asked(subject, f"{error}; what a recipe called selftest has is asked there")]


def _classes_of(catalogue: Catalogue, plugin: str) -> dict[type, list[str]]:
    """The plugin's classes of a kind, each with its names."""
    offered: dict[type, list[str]] = {}
    for name, component in catalogue.classes.items():
        if catalogue.owners[name] == plugin:
            offered.setdefault(component, []).append(name)
    return offered


def _resolve(recipe: str, known: list[str]) -> Recipe | None:
    """A recipe of the plugin; None where it does not exist or resolve."""
    if recipe not in known:
        return None
    try:
        return RecipeCase(recipe).recipe
    except UserError:  # the check of the recipe itself reports it
        return None


def _settings_by_kind(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The settings that a recipe gives to components, by kind, each with the component's `name`."""
    table = recipe.to_table()
    entries = {section: [table[section]] for section in COMPONENT_SECTIONS}
    for section, kind in COMPONENT_TABLES.items():
        entries.setdefault(kind, []).extend(table.get(section, {}).values())
    return entries
