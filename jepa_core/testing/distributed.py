"""What two processes that train together must not change: the losses and gradients of a model in training.

A step's micro-batches are ranks (`jepa_core.runtime.distributed`), so one process with two of them gives the
expected values.
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

Taken = tuple[Tensor, dict[str, Tensor]]
"""Loss and terms of a step, and the gradient of each parameter before the optimizer took it."""


def two_processes(case: ModelCase) -> None:
    """Two processes with a micro-batch each (gloo) have the losses and gradients of one with both."""
    adding = [term.config.name for term in case.build(0).objectives.values() if term.config.summed]
    if adding:
        raise NotAsked(f"{' and '.join(adding)} adds up over processes: more of them, more samples at once")
    alone, parts = case.training(), case.micro_batches()
    expected = [_taken(alone, of_step) for of_step in parts]
    shares = [[of_step[rank : rank + 1] for of_step in parts] for rank in range(PROCESSES)]
    work = [(case.build(0), case.plain_recipe(), alone.total_steps, share) for share in shares]
    (first, state), (_, other) = on_both(_trained, work)
    for step, (one, two) in enumerate(zip(expected, first, strict=True), 1):
        require_equal(two[0], one[0], f"loss and terms of step {step} in two processes and in one", CLOSE)
    most = max(float(gradient.abs().max()) for gradient in expected[0][1].values())
    for name, gradient in expected[0][1].items():
        said = f"the gradient of {name} in two processes and in one, of {most:.1e} at most"
        require_equal(first[0][1][name] / most, gradient / most, said, CLOSE)
    apart = [name for name in state if not torch.equal(state[name], other[name])]
    require(not apart, f"the two processes go apart: {', '.join(apart[:3])}")


def _taken(step: TrainingStep, parts: Sequence[MicroBatch]) -> Taken:
    output = step.accumulate(parts)
    gradients = {name: p.grad.clone() for name, p in step.model.named_parameters() if p.grad is not None}
    return torch.stack([output.loss, *output.terms.values()]).detach(), gradients


def _trained(
    ranks: Ranks, work: tuple[JEPA, Recipe, int, Sequence[Sequence[MicroBatch]]]
) -> tuple[list[Taken], dict[str, Tensor]]:
    """What one of the two processes does: its steps, and what its model holds after them."""
    model, recipe, total, parts = work
    step = TrainingStep(model, recipe, total, 0, ranks)
    return [_taken(step, of_step) for of_step in parts], model.state_dict()
