"""AdamW, the default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from jepa_core.optimizers.base import fusible
from jepa_core.settings.optimizer import DecayRate, OptimizerSettings

STATE = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""What torch's AdamW keeps of a parameter."""


class AdamW:
    """AdamW (Loshchilov & Hutter 2019), torch's fused one, with schedules and groups."""

    class Config(OptimizerSettings):
        """AdamW's own settings."""

        capturable: ClassVar[bool] = True
        state_entries: ClassVar[tuple[frozenset[str], ...]] = (STATE,)

        betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
        """Adam's decay rates of the two moments."""
        eps: float = Field(1e-8, gt=0)
        """Adam's ε."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's AdamW over these groups."""
        config = self.config
        return torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=fusible(groups),
        )
