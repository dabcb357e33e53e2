"""Variants and predictors that need parts of their own: they are checked with those of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jepa_core.runtime.plugin_calls import PluginError, call_plugin
from jepa_core.settings.recipe import Recipe
from jepa_core.testing import model_case, models, predictors
from jepa_core.testing.outcomes import NotAsked, Outcome, outcomes, own_randomness
from jepa_core.testing.subject import Subject

TRIALS: Mapping[str, Callable[[Subject], Any]] = {
    "variant": lambda subject: model_case.of_variant(subject).forward(),
    "predictor": lambda subject: predictors.PredictorCase(subject).predict_once(),
}
"""For each kind that may need parts of its own, what it does once with the small parts of the checks."""


def needs_own_parts(subject: Subject, recipe: Recipe) -> bool:
    """Whether the checks' small parts do not suit a component, and the recipe has it."""
    if subject.kind not in TRIALS or _settings(subject.kind, recipe) != subject.config:
        return False
    try:
        with own_randomness():
            call_plugin(TRIALS[subject.kind], subject)
    except PluginError as error:
        return not isinstance(error.raised, NotAsked)
    return False


def behaviour_in_recipe(subject: Subject, recipe: Recipe) -> Iterator[Outcome]:
    """The outcomes of its kind's suite with the recipe's parts."""
    if subject.kind == "variant":
        return outcomes("variant", subject.name, models.CHECKS, model_case.of_recipe(recipe))
    case = predictors.PredictorCase(subject, recipe)
    return outcomes("predictor", subject.name, predictors.CHECKS, case)


def _settings(kind: str, recipe: Recipe) -> Any:
    return recipe.variant if kind == "variant" else recipe.predictor
