"""Sets padded to whole multiples for a CPU in bf16: what is added, and that it reaches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepa_core import build_model, load_recipe, sample_masks, training_step
from jepa_core.jepa import JEPA
from jepa_core.training.rounded_sets import NUM_PADDING, ROWS, SHORT, can_round, round_plan
from jepa_core.types import IndexSet, MaskPlan, grid_size
from jepa_core.types.padded_set import PaddedSet


@pytest.fixture
def model(tiny_recipe: Path) -> JEPA:
    return build_model(load_recipe(str(tiny_recipe)))


@given(st.lists(st.integers(0, 16), min_size=2, max_size=9))
def test_a_ragged_set_gets_few_short_sequences(lengths: list[int]) -> None:
    own = IndexSet.from_lists([range(n) for n in [*lengths, 1, 2]])
    model = _Grid()
    (padded,) = round_plan(MaskPlan((own,), ()), model).contexts  # type: ignore[arg-type]
    added = padded.lengths[own.batch_size :]
    assert isinstance(padded, PaddedSet)
    assert padded.total == int(padded.lengths.sum()) == -(-own.total // ROWS) * ROWS
    assert padded.batch_size == own.batch_size
    assert len(added) == NUM_PADDING
    assert int(added.max()) <= SHORT
    assert int(added.max() - added.min()) <= 1
    assert padded.max_length == max(own.max_length, int(added.max()))
    assert torch.equal(padded.index[: own.total], own.index)
    assert padded.index.max() < grid_size(model.grid())


class _Grid:
    @staticmethod
    def grid() -> tuple[int, int]:
        return 4, 4


def test_sets_of_one_length_stay(model: JEPA) -> None:
    plan = MaskPlan((IndexSet.full(3, 5),), (IndexSet.full(3, 4),))
    assert round_plan(plan, model) is plan


def test_padding_reaches_neither_loss_nor_gradient(model: JEPA) -> None:
    plan = sample_masks(model, 8, seed=1)
    assert plan.contexts[0].uniform is None
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole, padded = (_gradients(model, images, masks) for masks in (plan, round_plan(plan, model)))
    assert whole.keys() == padded.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(padded[name], gradient, rtol=1e-4, atol=1e-6)


def _gradients(model: JEPA, images: torch.Tensor, plan: MaskPlan) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(images, plan).loss
    loss.backward()
    trained = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **trained}


@pytest.mark.parametrize(("precision", "rounds"), [("bf16", True), ("fp32", False)])
def test_a_step_in_bf16_gives_out_the_sets_it_was_given(
    tiny_recipe: Path, precision: str, rounds: bool
) -> None:
    recipe = load_recipe(str(tiny_recipe), f"train.precision={precision}")
    model = build_model(recipe)
    step, plan = training_step(model, recipe), sample_masks(model, 8, seed=1)
    assert step.rounds_sets is rounds
    output = step(torch.randn(8, 3, 16, 16), plan)
    (context,) = output.step.contexts
    assert len(context.values) == context.at.total == plan.contexts[0].total
    assert context.at.batch_size == len(context.at.lengths) == 8
    assert output.metrics["context_tokens"] == plan.contexts[0].total / 8
    assert all(
        len(guess.values) == own.total
        for guess, own in zip(output.step.predictions, plan.targets, strict=True)
    )


def test_terms_that_do_not_leave_padding_out_are_not_given_any(model: JEPA) -> None:
    assert can_round(model)
    model.objectives["prediction"].config = _Unsaid()
    assert not can_round(model)


class _Unsaid:
    capturable = False
