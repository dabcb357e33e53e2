"""The steps of each arm where a budget sets them: equal in steps, images, time or operations.

`equal = "time" | "flops"` gives every arm the steps that its own step allows, since maskers and encoders
differ several times in cost. The measure is `per_cell`, or what the baseline's own steps cost.
"""

from __future__ import annotations

from dataclasses import replace

from jepa_core.errors import UserError
from jepa_core.settings.recipe import Recipe
from jepa_core.study.ledger import Ledger
from jepa_core.study.measure import flops_per_image, measured_seconds, steps_of_recipe
from jepa_core.study.plan import Arm, Study, arm_key


def with_budget(study: Study, ledger: Ledger, measure: bool = True) -> Study:
    """The study with the steps of each arm set, measured where that is needed.

    Raises UserError where arms that should be equal in steps are not, for a budget that does not allow a
    single step, and where steps were not measured yet and `measure` is false.
    """
    budget = study.settings.budget
    if budget.equal is None and budget.per_cell is None:
        return study
    steps: dict[str, int] = {}
    for dataset in study.datasets:
        recipes = {arm.name: study.recipe_of(arm, dataset) for arm in study.arms}
        if budget.per_cell is None and budget.equal == "steps":
            _check_equal_steps(recipes)
            continue
        for arm in study.arms:
            count = _steps(study, arm, dataset, recipes, ledger, measure)
            if count < 1:
                raise UserError(f"arm {arm.name!r}: the budget does not allow a single step; raise it")
            steps[arm_key(arm, dataset)] = count
    return replace(study, steps=steps)


def _check_equal_steps(recipes: dict[str, Recipe]) -> None:
    counts = {name: steps_of_recipe(recipe) for name, recipe in recipes.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise UserError(f"the budget is equal in steps, but the arms have {listed}")


def _reference(study: Study, recipes: dict[str, Recipe]) -> Arm:
    """The arm whose own steps are the measure: the baseline (the first of several)."""
    return next(arm for arm in study.arms if study.baseline_of(arm) is None and arm.name in recipes)


def _steps(
    study: Study, arm: Arm, dataset: str | None, recipes: dict[str, Recipe], ledger: Ledger, measure: bool
) -> int:
    """Steps of one arm: what every arm may cost, in the budget's unit, over what its step costs."""
    budget = study.settings.budget
    reference = _reference(study, recipes)

    def seconds(of: Arm) -> float:
        return measured_seconds(study, of, dataset, ledger, measure)

    def unit(of: Arm) -> float:
        if budget.equal == "time":
            return seconds(of)
        if budget.equal == "flops":
            return _step_flops(recipes[of.name], ledger)
        return recipes[of.name].train.batch_size if budget.equal == "images" else 1.0

    if budget.per_cell is None:
        total = steps_of_recipe(recipes[reference.name]) * unit(reference)
    elif budget.equal in ("time", "flops"):
        total = budget.per_cell / seconds(reference) * unit(reference)
    else:  # what the slowest arm can do
        total = min(budget.per_cell / seconds(member) * unit(member) for member in study.arms)
    return int(total / unit(arm) + 1e-6)


def _step_flops(recipe: Recipe, ledger: Ledger) -> float:
    cost = flops_per_image(recipe, ledger)
    if cost is None:
        raise UserError("the budget is equal in flops, which are not counted for a model of this size")
    return cost * recipe.train.batch_size
