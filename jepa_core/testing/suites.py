"""The suites of checks by kind of component, as outcomes (`examine`) and as `check_*` for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jepa_core.errors import unknown
from jepa_core.evaluate.model_evaluations import Evaluate
from jepa_core.plugins import KINDS
from jepa_core.recipes.selftest import plain_selftest
from jepa_core.settings.recipe import Recipe
from jepa_core.testing import (
    encoders,
    evaluations,
    maskers,
    model_case,
    models,
    objectives,
    optimizers,
    predictors,
    probes,
    recipes,
    sources,
    target_updates,
)
from jepa_core.testing import subject as common
from jepa_core.testing.model_case import Batches
from jepa_core.testing.outcomes import Outcome, demand, outcomes
from jepa_core.testing.subject import Subject

Suite = tuple[Callable[[Subject], Any], Iterable[Callable[[Any], None]]]

SUITES: dict[str, Suite] = {
    "encoder": (encoders.EncoderCase, encoders.CHECKS),
    "predictor": (predictors.PredictorCase, predictors.CHECKS),
    "masker": (maskers.MaskerCase, maskers.CHECKS),
    "target_update": (target_updates.TargetUpdateCase, target_updates.CHECKS),
    "objective": (objectives.ObjectiveCase, objectives.CHECKS),
    "optimizer": (optimizers.OptimizerCase, optimizers.CHECKS),
    "data": (sources.SourceCase, sources.CHECKS),
    "probe": (probes.ProbeCase, probes.CHECKS),
    "variant": (model_case.of_variant, models.CHECKS),
}
"""(how to make the case, the properties) of each kind; of other kinds only the settings are checked."""


def examine(kind: str, component: type | str, **settings: Any) -> list[Outcome]:
    """Every property of a component (a class or a registered name) built with these settings.

    For a data source this reads the data. Raises UserError for an unknown kind or name, and for settings that
    do not fit.
    """
    if kind not in KINDS:
        raise unknown("kind of component", kind, KINDS)
    subject = Subject.of(kind, component, settings)
    return [*settings_outcomes(subject), *behaviour(subject)]


def settings_outcomes(subject: Subject) -> Iterator[Outcome]:
    """The outcomes of the checks that hold for every kind."""
    return outcomes(subject.kind, subject.name, common.CHECKS, subject)


def behaviour(subject: Subject) -> Iterator[Outcome]:
    """The outcomes of its kind's suite, none without one. Raises UserError for settings that do not fit."""
    if subject.kind in SUITES:
        make, properties = SUITES[subject.kind]
        subject.config.check()
        yield from outcomes(subject.kind, subject.name, properties, make(subject))


def examine_recipe(name: str, *overrides: str, batches: Batches | None = None) -> list[Outcome]:
    """Every property of a recipe by name or file; a small one is also trained for a few steps.

    `batches` makes the batches of a variant that takes other views than one image.
    Raises UserError for an unknown name.
    """
    case = recipes.RecipeCase(name, overrides)
    recipes.find(name)
    outcomes_of_recipe = list(outcomes("recipe", name, recipes.CHECKS, case))
    if any(outcome.state == "fails" and outcome.property != "told" for outcome in outcomes_of_recipe):
        return outcomes_of_recipe
    if case.parameters > recipes.SMALL:
        reason = f"{case.parameters / 1e6:.0f} million parameters; small recipes are trained"
        return [*outcomes_of_recipe, Outcome("recipe", name, "training", "not asked", reason)]
    return [
        *outcomes_of_recipe,
        *outcomes("recipe", name, models.CHECKS, model_case.of_recipe(case.recipe, batches)),
    ]


def check_encoder(component: type | str, **settings: Any) -> None:
    """Raises Failed unless an encoder keeps `jepa_core.protocols.Encoder`.

    Shapes on odd grids and ragged sets, samples independent of their batch, nothing seen of hidden tokens.
    """
    demand(examine("encoder", component, **settings))


def check_predictor(component: type | str, **settings: Any) -> None:
    """Raises Failed unless a predictor keeps `jepa_core.protocols.Predictor`, on grids of any rank."""
    demand(examine("predictor", component, **settings))


def check_masker(component: type | str, **settings: Any) -> None:
    """Raises Failed unless a masker keeps `jepa_core.protocols.Masker` on grids of one to three axes.

    Sets in range, ascending, disjoint; drawn from the generator alone; `check` agrees with drawing.
    """
    demand(examine("masker", component, **settings))


def check_probe(component: type | str, **settings: Any) -> None:
    """Raises Failed unless a probe keeps `jepa_core.protocols.Probe`.

    Perfect on classes that lie apart, at chance on noise, the same each time, and never looking at held-out
    labels or at other held-out samples.
    """
    demand(examine("probe", component, **settings))


def check_source(component: type | str, **settings: Any) -> None:
    """Raises Failed unless a data source keeps `jepa_core.protocols.Source` and `Samples`. It reads the data.

    Samples follow from their index alone, reach worker processes, are in one split only, and raise
    CorruptSample where they cannot be read (asked where some cannot).
    """
    demand(examine("data", component, **settings))


def check_target_update(component: type | str, **settings: Any) -> None:
    """Raises Failed unless a target update keeps `jepa_core.protocols.TargetUpdate`, over a stop as well."""
    demand(examine("target_update", component, **settings))


def check_objective(component: type | str, **settings: Any) -> None:
    """Raises Failed unless a loss term keeps `jepa_core.protocols.Objective`.

    Its mean over two ranks must be its value on both, unless its settings say `batchwise = True`.
    """
    demand(examine("objective", component, **settings))


def check_optimizer(component: type | str, **settings: Any) -> None:
    """Raises Failed unless an optimizer keeps `jepa_core.optimizers.base.Optimizer`.

    It lowers a loss, honours rate and weight decay of each group, and goes on from its state bit for bit.
    """
    demand(examine("optimizer", component, **settings))


def check_variant(component: type | str, *, batches: Batches | None = None, **settings: Any) -> None:
    """Raises Failed unless a variant trains as the engine expects, among small parts.

    `batches(size, generator)` makes its batches where it takes other views than one image. A variant that
    refuses those parts is checked by its recipe: `check_recipe`.
    """
    subject = Subject.of("variant", component, settings)
    subject.config.check()
    demand(settings_outcomes(subject))
    demand(outcomes("variant", subject.name, models.CHECKS, model_case.of_variant(subject, batches)))


def examine_evaluation(evaluation: Evaluate | str, recipe: Recipe) -> list[Outcome]:
    """Every property of an evaluation that sees the model, with the model of this recipe."""
    case = evaluations.EvaluationCase.of(evaluation, recipe)
    return list(outcomes("evaluation", case.name, evaluations.CHECKS, case))


def check_evaluation(evaluation: Evaluate | str, recipe: str | None = None) -> None:
    """Raises Failed unless an evaluation (a function or a registered name) keeps its contract.

    It gets the model of `recipe`, by default of an installed recipe called selftest, and random images with
    captions, classes and vectors. Its tables must be whole, finite, repeatable, the run's own row first.
    """
    name = recipe or plain_selftest() or ""
    demand(examine_evaluation(evaluation, recipes.RecipeCase(name).recipe))


def check_recipe(name: str, *overrides: str, batches: Batches | None = None) -> None:
    """Raises Failed unless a recipe resolves, its parts fit and, where it is small, it trains and resumes."""
    demand(examine_recipe(name, *overrides, batches=batches))


def not_asked(subject: Subject, reason: str) -> Outcome:
    """The outcome for a component whose behaviour cannot, or should not, be checked."""
    return Outcome(subject.kind, subject.name, "behaviour", "not asked", reason)
