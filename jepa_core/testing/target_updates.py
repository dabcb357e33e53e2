"""Checks of target updates (`protocols.TargetUpdate`)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.testing.outcomes import NotAsked, require, require_same, untouched_randomness
from jepa_core.testing.small_parts import SmallEncoder
from jepa_core.testing.subject import Subject

STEPS = 6


@dataclass(frozen=True)
class TargetUpdateCase:
    """A target update, and an online encoder with other weights at every step."""

    subject: Subject

    def make(self) -> Any:
        """A new one."""
        return self.subject.component(self.subject.config)

    def online(self, step: int = 0) -> SmallEncoder:
        """The online encoder after `step` steps."""
        torch.manual_seed(step)
        encoder = SmallEncoder(SmallEncoder.Config(name="small"))
        encoder.register_buffer("count", torch.tensor(float(step)))
        return encoder

    def target(self, update: Any) -> nn.Module:
        """The target encoder. Raises NotAsked where the online encoder is its own target."""
        target: nn.Module | None = update.make_target(self.online())
        if target is None:
            raise NotAsked("the online encoder is its own target")
        return target


def made_apart(case: TargetUpdateCase) -> None:
    """The target has storage of its own, and takes no gradient."""
    online = case.online()
    target = case.make().make_target(online)
    if target is None:
        raise NotAsked("the online encoder is its own target")
    shared = {t.data_ptr() for t in _tensors(online)} & {t.data_ptr() for t in _tensors(target)}
    require(not shared, f"{len(shared)} tensors of the target are those of the online encoder")
    trainable = [name for name, p in target.named_parameters() if p.requires_grad]
    require(not trainable, f"the target's parameters take gradients: {', '.join(trainable[:3])}")


def online_untouched(case: TargetUpdateCase) -> None:
    """An update leaves the online encoder as it is."""
    update = case.make()
    target, online = case.target(update), case.online(1)
    before = copy.deepcopy(_tensors(online))
    for step in range(STEPS):
        update.update(target, online, step, STEPS)
    require_same(_tensors(online), before, "update changed the online encoder")


def remembers_nothing(case: TargetUpdateCase) -> None:
    """Where training stops and goes on with a fresh one, the target moves as if it had not."""
    uninterrupted, first = case.make(), case.make()
    expected, target = case.target(uninterrupted), case.target(first)
    for step in range(STEPS):
        uninterrupted.update(expected, case.online(step + 1), step, STEPS)
        update = case.make() if step >= STEPS // 2 else first
        update.update(target, case.online(step + 1), step, STEPS)
        require_same(
            _tensors(target), _tensors(expected), f"step {step}: the target depends on what came before"
        )


def stays_finite(case: TargetUpdateCase) -> None:
    """From the first step to the last the target is finite, and what is logged are finite numbers."""
    update = case.make()
    target = case.target(update)
    for step in range(STEPS):
        logged = update.update(target, case.online(step + 1), step, STEPS)
        plain = all(isinstance(value, int | float) and math.isfinite(value) for value in logged.values())
        require(plain, f"step {step} of {STEPS} logs {logged}")
        finite = all(bool(t.isfinite().all()) for t in _tensors(target))
        require(finite, f"step {step} of {STEPS}: the target is not finite")


def nothing_drawn(case: TargetUpdateCase) -> None:
    """Making and moving a target draws from no global randomness."""
    update, online = case.make(), case.online()
    with untouched_randomness():
        target = update.make_target(online)
        if target is not None:
            update.update(target, online, 0, STEPS)


def _tensors(module: nn.Module) -> list[Tensor]:
    def every() -> Iterator[Tensor]:
        yield from module.parameters()
        yield from module.buffers()

    return [tensor.detach() for tensor in every()]


CHECKS = (made_apart, online_untouched, remembers_nothing, stays_finite, nothing_drawn)
