"""How the target encoder is made and how it follows the online encoder.

`ema` (I-JEPA), `none` (the online encoder is its own target), `frozen` (a copy that never moves),
`copy` (a copy renewed at intervals). Updates follow optimizer steps, not micro-batches.
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from jepa_core.schedules import Shape, between
from jepa_core.settings.base import ComponentSettings
from jepa_kernels import EmaPlan, ema_update_
from jepa_kernels.ema_pairs import addresses

Momentum = Annotated[float, Field(ge=0.0, le=1.0)]


def frozen_copy(encoder: nn.Module) -> nn.Module:
    """A deep copy whose parameters take no gradient."""
    return copy.deepcopy(encoder).requires_grad_(False)


class Ema:
    """target ← m · target + (1 - m) · online, over parameters; buffers are copied.

    I-JEPA: m from .996 to 1, linear over the run (paper §3, and the released code). Sharded parameters
    (FSDP2) are averaged shard by shard.
    """

    class Config(ComponentSettings):
        momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
        """m at the first step and after the last."""
        shape: Shape = "linear"
        """How m goes from one to the other: linear, cosine or constant."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._plan: tuple[list[int], EmaPlan] | None = None

    def make_target(self, encoder: nn.Module) -> nn.Module:
        return frozen_copy(encoder)

    def momentum(self, step: int, total_steps: int) -> float:
        """m of optimizer step `step` (0-based)."""
        start, final = self.config.momentum
        return between(step, total_steps, start, final, self.config.shape)

    @torch.no_grad()
    def update(self, target: nn.Module, online: nn.Module, step: int, total_steps: int) -> dict[str, float]:
        m = self.momentum(step, total_steps)
        ema_update_(self._plan_of(target, online), 1.0 - m)
        for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
            buffer.copy_(source)
        return {"momentum": m}

    def _plan_of(self, target: nn.Module, online: nn.Module) -> EmaPlan:
        """The parameters in pairs, made anew where any memory has moved (device, reload, a new layer)."""
        lists = [p.data for p in target.parameters()], [p.data for p in online.parameters()]
        where = addresses(lists[0]) + addresses(lists[1])
        if self._plan is None or self._plan[0] != where:
            self._plan = where, EmaPlan(*lists)
        return self._plan[1]


class NoTarget:
    """No second encoder: targets come from the online one (`variant.target_gradient` says how)."""

    class Config(ComponentSettings):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def make_target(self, encoder: nn.Module) -> None:
        return None

    def update(self, target: nn.Module, online: nn.Module, step: int, total_steps: int) -> dict[str, float]:
        return {}


class Frozen:
    """A target encoder that never changes: initial weights, or weights that are loaded into it."""

    class Config(ComponentSettings):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def make_target(self, encoder: nn.Module) -> nn.Module:
        return frozen_copy(encoder)

    def update(self, target: nn.Module, online: nn.Module, step: int, total_steps: int) -> dict[str, float]:
        return {}


class PeriodicCopy:
    """target ← online every `every` steps; unchanged in between."""

    class Config(ComponentSettings):
        every: int = Field(100, ge=1)
        """Optimizer steps between two copies."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def make_target(self, encoder: nn.Module) -> nn.Module:
        return frozen_copy(encoder)

    @torch.no_grad()
    def update(self, target: nn.Module, online: nn.Module, step: int, total_steps: int) -> dict[str, float]:
        copied = (step + 1) % self.config.every == 0
        if copied:
            target.load_state_dict(online.state_dict())
        return {"target_copied": float(copied)}
