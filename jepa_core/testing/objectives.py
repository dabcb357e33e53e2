"""Checks of objectives (`protocols.Objective`).

Each gets a step with masks (two contexts, two targets, ragged) and one without; it may refuse one of the two
with a ValueError. It may use torch's global generator, which the trainer seeds from (seed, step).

Axes: B samples, S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.base import ObjectiveSettings
from jepa_core.testing.outcomes import NotAsked, require, require_equal
from jepa_core.testing.process_pair import PROCESSES, on_both
from jepa_core.testing.small_parts import pick, pick_tokens, ragged_plan, with_padding
from jepa_core.testing.subject import Subject
from jepa_core.training.plan_buckets import sets_of
from jepa_core.types.index_set import IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.step import Step
from jepa_core.types.tokens import Tokens

BATCH, GRID, WIDTH, CLOSE = 8, (3, 5), 16, 1e-4


@dataclass(frozen=True)
class ObjectiveCase:
    """A loss term, and steps to compute it on."""

    subject: Subject

    def make(self, **changes: Any) -> Any:
        """A new one, with `changes` to its settings."""
        torch.manual_seed(0)
        return self.subject.component(self.subject.config.model_copy(update=changes))

    def loss(self, step: Step, **changes: Any) -> Tensor:
        """The value of a step, torch's global generator seeded."""
        objective = self.make(**changes)
        torch.manual_seed(1)
        value: Tensor = objective(step)
        return value

    def steps(self) -> Iterator[Step]:
        """The steps that it accepts. Raises the last ValueError where it refuses all."""
        refusal, accepted = None, 0
        for step in (masked_step(uniform=False), plain_step()):
            try:
                self.loss(step)
            except ValueError as error:
                refusal = error
                continue
            accepted += 1
            yield step
        if refusal and not accepted:
            raise refusal


def masked_step(uniform: bool) -> Step:
    """Random features for the pairs of a ragged plan, or of one with sets of equal length."""
    plan = ragged_plan(GRID, BATCH)
    if uniform:
        halves = IndexSet.full(BATCH, 7), IndexSet.from_dense(torch.arange(7, 15).expand(BATCH, 8))
        plan = MaskPlan((halves[0],), (halves[1], halves[0]))
    generator = torch.Generator().manual_seed(5)
    targets = [plan.targets[j] for _, j in plan.pairs]
    whole = IndexSet.full(BATCH, 15)
    return Step(
        tuple(_random(at, generator, True) for at in targets),
        tuple(_random(at, generator) for at in targets),
        tuple(_random(at, generator, True) for at in plan.contexts),
        _random(whole, generator),
        plan,
    )


def plain_step() -> Step:
    """Three whole views of each sample and no masks."""
    generator, whole = torch.Generator().manual_seed(6), IndexSet.full(BATCH, 15)
    views = tuple(_random(whole, generator, True) for _ in range(3))
    return Step(
        views, tuple(_random(whole, generator) for _ in views), views, _random(whole, generator), MaskPlan()
    )


def _random(at: IndexSet, generator: torch.Generator, trained: bool = False) -> Tokens:
    values = torch.randn(at.total, WIDTH, generator=generator).requires_grad_(trained)
    return Tokens(values, at, GRID)


def pick_step(step: Step, samples: Sequence[int]) -> Step:
    """The step with these samples only, in this order."""
    plan = MaskPlan(
        tuple(pick(index_set, samples) for index_set in step.plan.contexts),
        tuple(pick(index_set, samples) for index_set in step.plan.targets),
        step.plan.pairs,
    )
    parts = [
        tuple(pick_tokens(tokens, samples) for tokens in group)
        for group in (step.predictions, step.targets, step.contexts)
    ]
    whole = None if step.target_tokens is None else pick_tokens(step.target_tokens, samples)
    return Step(parts[0], parts[1], parts[2], whole, plan)


def pad_step(step: Step) -> Step:
    """The step with padding sequences after the samples; they hold other features."""
    plan = step.plan.map(lambda index_set: with_padding(index_set, 15))
    sets = dict(zip(map(id, sets_of(step.plan)), sets_of(plan), strict=True))

    def pad(tokens: Tokens) -> Tokens:
        at = sets.get(id(tokens.at))
        return tokens if at is None else Tokens(torch.cat([tokens.values, tokens.values[:3] + 1]), at, GRID)

    return replace(step.map(pad), plan=plan)


def fillers(case: ObjectiveCase) -> None:
    """A term that says it is `capturable` leaves out what stands for no sample, in value and gradient."""
    if not case.make().config.capturable:
        raise NotAsked("it does not say that it is capturable")
    step = masked_step(uniform=False)
    expected, actual = case.loss(step), case.loss(pad_step(step))
    require_equal(actual, expected, "with fillers behind the samples", CLOSE)


def a_finite_scalar(case: ObjectiveCase) -> None:
    """Its value is one finite number."""
    for step in case.steps():
        value = case.loss(step)
        require(value.dim() == 0, f"a loss is a scalar; got the shape {list(value.shape)}")
        require(bool(value.isfinite()), f"the loss of normal random features is {value.item()}")


def gradient(case: ObjectiveCase) -> None:
    """Its gradient reaches predictions or contexts, and is finite."""
    for step in case.steps():
        inputs = list({id(t.values): t.values for t in (*step.predictions, *step.contexts)}.values())
        value = case.loss(step)
        require(value.requires_grad, "no gradient flows back: something is detached")
        gradients = [g for g in torch.autograd.grad(value, inputs, allow_unused=True) if g is not None]
        require(all(bool(g.isfinite().all()) for g in gradients), "the gradient is not finite")
        require(any(bool(g.abs().max() > 0) for g in gradients), "the gradient is zero everywhere")


def weight_outside(case: ObjectiveCase) -> None:
    """`weight` is left to the engine: the value does not contain it."""
    for step in case.steps():
        require_equal(case.loss(step, weight=3.0), case.loss(step, weight=1.0), "with weight 3 and weight 1")


def order_of_samples(case: ObjectiveCase) -> None:
    """The value does not depend on the order of the samples."""
    for step in case.steps():
        reversed_step = pick_step(step, list(range(BATCH))[::-1])
        require_equal(case.loss(reversed_step), case.loss(step), "with the samples in another order", CLOSE)


def repeatable(case: ObjectiveCase) -> None:
    """The same step gives the same value: nothing is remembered, nothing drawn but from torch."""
    for step in case.steps():
        objective, values = case.make(), []
        for _ in range(2):
            torch.manual_seed(1)
            values.append(objective(step))
        require_equal(values[1], values[0], "the second time")


def ranks(case: ObjectiveCase) -> None:
    """The mean over two ranks, or micro-batches, of half the samples is the value of all of them."""
    config = case.subject.config
    if isinstance(config, ObjectiveSettings) and config.batchwise:
        raise NotAsked("its settings say that it looks at the batch as a whole (batchwise = True)")
    for step in (masked_step(uniform=True), plain_step()):
        try:
            whole = case.loss(step)
        except ValueError:  # it may refuse steps with, or without, masks
            continue
        halves = [case.loss(pick_step(step, part)) for part in (range(4), range(4, 8))]
        message = "two ranks beside one (a term that looks at the whole batch declares batchwise = True)"
        require_equal(torch.stack(halves).mean(), whole, message, CLOSE)


def two_processes(case: ObjectiveCase) -> None:
    """Over two processes (gloo) the mean of the values, and of the gradients, is that of all samples."""
    config = case.subject.config
    if isinstance(config, ObjectiveSettings) and config.batchwise and not config.summed:
        raise NotAsked("its settings say that each process judges its own samples (batchwise = True)")
    for step in (masked_step(uniform=True), plain_step()):
        try:
            whole, expected = loss_and_gradients(Ranks(), (case.make(), step))
        except ValueError:  # it may refuse steps with, or without, masks
            continue
        halves = [pick_step(step, part) for part in (range(4), range(4, 8))]
        values, gradients = zip(
            *on_both(loss_and_gradients, [(case.make(), half) for half in halves]), strict=True
        )
        require_equal(torch.stack(values).mean(), whole, "the value in two processes and in one", CLOSE)
        for tokens, parts in zip(expected, zip(*gradients, strict=True), strict=True):
            actual = torch.cat([part / PROCESSES for part in parts])
            require_equal(actual, tokens, "the gradient in two processes and in one", CLOSE)


def loss_and_gradients(ranks: Ranks, work: tuple[Any, Step]) -> tuple[Tensor, list[Tensor]]:
    """The value of a step, and its gradient at each prediction and context, zeros where there is none."""
    objective, step = work
    leaves = [t.values.detach().requires_grad_() for t in (*step.predictions, *step.contexts)]
    tokens = [replace(t, values=v) for t, v in zip((*step.predictions, *step.contexts), leaves, strict=True)]
    count = len(step.predictions)
    torch.manual_seed(1)
    value = objective(replace(step, predictions=tuple(tokens[:count]), contexts=tuple(tokens[count:])))
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves)
    return value.detach(), [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]


def targets_as_they_are(case: ObjectiveCase) -> None:
    """No feature that it is given is changed in place."""
    for step in case.steps():
        copies = [t.values.detach().clone() for t in (*step.predictions, *step.targets, *step.contexts)]
        case.loss(step)
        for tokens, before in zip((*step.predictions, *step.targets, *step.contexts), copies, strict=True):
            require_equal(tokens.values.detach(), before, "features after the loss")


CHECKS = (
    a_finite_scalar,
    fillers,
    gradient,
    weight_outside,
    order_of_samples,
    repeatable,
    ranks,
    two_processes,
    targets_as_they_are,
)
