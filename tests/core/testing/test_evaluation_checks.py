"""`check_evaluation`: right evaluations hold, and each way to be wrong fails the property that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jepa_core.evaluate import EvaluationContext, EvaluationTable, MetricScore
from jepa_core.testing import Failed, check_evaluation
from jepa_core.testing.recipes import RecipeCase
from jepa_core.testing.suites import examine_evaluation


def rows(context: EvaluationContext, value: Callable[[Any], float] = lambda model: 0.5, **more: Any) -> Any:
    return {name: {"size": MetricScore(value=value(m), **more)} for name, m in context.models.items()}


def sizes(context: EvaluationContext) -> EvaluationTable:
    """The number of parameters."""
    count = sum(batch.batch_size for batch in context.batches())
    return context.table(rows(context, lambda m: sum(p.numel() for p in m.parameters())), count=count)


def test_a_right_one_holds_all() -> None:
    recipe = RecipeCase("ijepa/selftest").recipe
    check_evaluation(sizes)
    assert {outcome.state for outcome in examine_evaluation(sizes, recipe)} == {"holds"}


def test_the_built_in_regression_holds_and_retrieval_has_nothing_to_say() -> None:
    recipe = RecipeCase("ijepa/selftest").recipe
    assert {outcome.state for outcome in examine_evaluation("regression", recipe)} == {"holds"}
    states = {o.property: o.state for o in examine_evaluation("retrieval", recipe)}
    assert states.pop("documented") == "holds"
    assert set(states.values()) == {"not asked"}


def silent(context: EvaluationContext) -> EvaluationTable:
    return sizes(context)


def alone(context: EvaluationContext) -> EvaluationTable:
    """The run alone."""
    return context.table({"trained": rows(context)["trained"]}, count=1)


def turned(context: EvaluationContext) -> EvaluationTable:
    """The twin first."""
    return context.table(dict(reversed(rows(context).items())), count=1)


def endless(context: EvaluationContext) -> EvaluationTable:
    """No number."""
    return context.table(rows(context, lambda _: float("inf")), count=1)


def beyond(context: EvaluationContext) -> EvaluationTable:
    """A share above 1."""
    return context.table(rows(context, lambda _: 41.0, unit="share"), count=1)


def many(context: EvaluationContext) -> EvaluationTable:
    """More samples than there are."""
    return context.table(rows(context), count=1000)


COUNT = iter(range(1000))


def drifting(context: EvaluationContext) -> EvaluationTable:
    """Another number each time."""
    return context.table(rows(context, lambda _: next(COUNT)), count=1)


def training(context: EvaluationContext) -> EvaluationTable:
    """Changes the model."""
    next(iter(context.model.parameters())).add_(1)
    return context.table(rows(context), count=1)


@pytest.mark.parametrize(
    ("function", "failed", "said"),
    [
        (silent, "documented", "the function has no docstring"),
        (alone, "own row first", "has the row 'trained' alone"),
        (turned, "own row first", "the first row of turned is 'random twin'"),
        (endless, "finite scores", "size is"),
        (beyond, "finite scores", "is a share of 1; got 41.0"),
        (many, "says what was counted", "counts 1000 of 16 samples"),
        (drifting, "repeatable", "the second time the tables differ"),
        (training, "model as it is", "of a model"),
        (lambda context: 3, "repeatable", "it returns int; expected an EvaluationTable"),
    ],
)
def test_a_wrong_one_fails_what_names_it(function: Any, failed: str, said: str) -> None:
    recipe = RecipeCase("ijepa/selftest").recipe
    outcomes = {outcome.property: outcome for outcome in examine_evaluation(function, recipe)}
    assert outcomes[failed].state == "fails"
    assert said in outcomes[failed].said
    with pytest.raises(Failed, match=failed):
        check_evaluation(function)
    assert torch.is_grad_enabled()
