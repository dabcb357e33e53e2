"""Steps that must not be taken: not finite, or far off the trend; skipped, counted and limited."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jepa_core import build_model, load_recipe, sample_masks, training_step
from jepa_core.jepa import JEPA
from jepa_core.settings import TrainSettings
from jepa_core.training.step import TrainingStep
from jepa_core.training.step_guard import WINDOW, StepGuard, StepRefused

FINE = torch.tensor(1.0)


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, *overrides)
    return training_step(build_model(resolved), resolved)


def take(step: TrainingStep, pixel: float = 0.0) -> None:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step.done))
    images[0, 0] += pixel
    step(images, sample_masks(step.model, 4, 0, step.done))


def judge(guard: StepGuard, step: int, loss: float, norm: Tensor = FINE) -> str | None:
    return guard.skip_reason(
        step, torch.tensor(loss), {"prediction": torch.tensor(loss)}, norm, nn.Linear(1, 1)
    )


def weights(model: JEPA) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_term(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "terms.spread.name=variance_covariance")
    take(step)
    before = weights(step.model)
    with pytest.raises(StepRefused) as error:
        take(step, math.inf)
    assert str(error.value) == "step 2: the loss is nan (term prediction is nan, spread is nan)"
    assert all(map(torch.equal, before, weights(step.model))), "nothing has moved"
    assert step.done == 1


def test_a_gradient_that_is_not_finite_names_parameters(tiny_recipe: Path) -> None:
    step = training(tiny_recipe)
    names = [name for name, _ in step.model.named_parameters()]
    dict(step.model.named_parameters())["predictor.mask_token"].register_hook(lambda g: g * math.nan)
    assert "predictor.mask_token" in names
    with pytest.raises(StepRefused) as error:
        take(step)
    assert str(error.value).startswith("step 1: the loss is 0.")
    assert str(error.value).endswith("but the gradient is not finite (of predictor.mask_token)")


def test_a_skipped_step_changes_nothing_but_its_number(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "train.on_nonfinite=skip")
    take(step)
    before, moments = weights(step.model), str(step.optimizer.state_dict())
    take(step, math.nan)
    assert all(map(torch.equal, before, weights(step.model)))
    assert str(step.optimizer.state_dict()["state"]) in moments
    assert step.done == 2
    assert step.skip_reason == "the loss is nan (term prediction is nan)"
    take(step)
    assert step.skip_reason is None
    assert step.guard.skipped == [2]
    assert not all(map(torch.equal, before, weights(step.model)))


def test_too_many_skipped_steps_end_the_run() -> None:
    guard = StepGuard(TrainSettings(on_nonfinite="skip", max_skipped=2))
    assert judge(guard, 1, math.nan)
    assert judge(guard, 2, 1.0) is None
    assert judge(guard, 3, math.inf) == "the loss is inf (term prediction is inf)"
    with pytest.raises(StepRefused) as error:
        judge(guard, WINDOW, math.nan)
    assert str(error.value) == (
        f"step {WINDOW}: the loss is nan (term prediction is nan); 3 of the last {WINDOW} steps had to be "
        "skipped, and train.max_skipped allows 2"
    )


def test_steps_skipped_long_ago_do_not_count() -> None:
    guard = StepGuard(TrainSettings(on_nonfinite="skip", max_skipped=1))
    assert judge(guard, 1, math.nan)
    assert judge(guard, WINDOW + 1, math.nan)
    with pytest.raises(StepRefused):
        judge(guard, 2 * WINDOW, math.nan)


def test_the_spike_guard_waits_for_its_window_then_skips_what_is_off_the_trend() -> None:
    guard = StepGuard(TrainSettings(spike_guard=4.0, max_skipped=1))
    losses = [1 + 0.1 * math.sin(number) for number in range(WINDOW)]
    assert judge(guard, 1, 50.0) is None, "without a trend nothing is off it"
    for number, loss in enumerate(losses, start=2):
        assert judge(guard, number, loss) is None
    limit = statistics.fmean(losses) + 4 * statistics.pstdev(losses)
    assert judge(guard, WINDOW + 2, limit + 1e-3) == (
        f"the loss {limit + 1e-3:.4g} is more than 4 deviations above the last {WINDOW} "
        f"({statistics.fmean(losses):.4g})"
    )
    assert judge(guard, WINDOW + 3, limit - 1e-3) is None, "the spike itself did not move the trend"
    with pytest.raises(StepRefused, match="2 of the last 300 steps had to be skipped"):
        judge(guard, WINDOW + 4, 9.0)


def test_without_the_spike_guard_no_finite_loss_is_skipped() -> None:
    guard = StepGuard(TrainSettings())
    for number in range(1, WINDOW + 1):
        judge(guard, number, 1.0)
    assert judge(guard, WINDOW + 1, 1e9) is None


def test_a_resumed_guard_judges_alike() -> None:
    first, second = (StepGuard(TrainSettings(spike_guard=3.0, max_skipped=5)) for _ in range(2))
    for number in range(1, WINDOW + 1):
        judge(first, number, 1 + 0.01 * (number % 7))
    judge(first, WINDOW + 1, 99.0)
    second.load_state_dict(first.state_dict())
    assert second.skipped == [WINDOW + 1]
    assert judge(first, WINDOW + 2, 1.2) == judge(second, WINDOW + 2, 1.2) is not None
