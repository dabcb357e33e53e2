"""The check that two processes which train together give the losses and gradients of one.

Micro-batch m of a step is drawn as rank m draws it, so one process with two micro-batches gives the expected
values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jepa_core.jepa import JEPA
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe
from jepa_core.testing.model_case import ModelCase
from jepa_core.testing.outcomes import NotAsked, require, require_equal
from jepa_core.testing.process_pair import PROCESSES, on_both
from jepa_core.training.step import TrainingStep
from jepa_core.types.batch import Batch
from jepa_core.types.mask_plan import MaskPlan

MicroBatch = tuple[Batch, MaskPlan]

CLOSE = 5e-4
"""Largest difference, relative to the largest value: sums of fp32 are taken in another order."""

StepResult = tuple[Tensor, dict[str, Tensor]]
"""Loss and terms of a step, and the gradient of each parameter before the optimizer step."""


def two_processes(case: ModelCase) -> None:
    """Two processes with a micro-batch each (gloo) have the losses and gradients of one with both."""
    summing = [term.config.name for term in case.build(0).objectives.values() if term.config.summed]
    if summing:
        raise NotAsked(f"{' and '.join(summing)} adds up over processes: more of them, more samples at once")
    alone, steps = case.training(), case.micro_batches()
    expected = [_take_step(alone, micro_batches) for micro_batches in steps]
    shares = [[micro_batches[rank : rank + 1] for micro_batches in steps] for rank in range(PROCESSES)]
    work = [(case.build(0), case.plain_recipe(), alone.total_steps, share) for share in shares]
    (first_steps, state), (_, other_state) = on_both(_train, work)
    for step, (alone_step, pair_step) in enumerate(zip(expected, first_steps, strict=True), 1):
        require_equal(
            pair_step[0], alone_step[0], f"loss and terms of step {step} in two processes and in one", CLOSE
        )
    largest = max(float(gradient.abs().max()) for gradient in expected[0][1].values())
    for name, gradient in expected[0][1].items():
        message = f"the gradient of {name} in two processes and in one, of {largest:.1e} at most"
        require_equal(first_steps[0][1][name] / largest, gradient / largest, message, CLOSE)
    different = [name for name in state if not torch.equal(state[name], other_state[name])]
    require(not different, f"the two processes go apart: {', '.join(different[:3])}")


def _take_step(step: TrainingStep, parts: Sequence[MicroBatch]) -> StepResult:
    output = step.accumulate(parts)
    gradients = {name: p.grad.clone() for name, p in step.model.named_parameters() if p.grad is not None}
    return torch.stack([output.loss, *output.terms.values()]).detach(), gradients


def _train(
    ranks: Ranks, work: tuple[JEPA, Recipe, int, Sequence[Sequence[MicroBatch]]]
) -> tuple[list[StepResult], dict[str, Tensor]]:
    """The job of one of the two processes: the results of its steps, and the weights after them."""
    model, recipe, total, parts = work
    step = TrainingStep(model, recipe, total, 0, ranks)
    return [_take_step(step, micro_batches) for micro_batches in parts], model.state_dict()
