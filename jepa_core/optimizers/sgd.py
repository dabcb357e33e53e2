"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from jepa_core.errors import UserError
from jepa_core.settings.optimizer import OptimizerSettings


class SGD:
    """Stochastic gradient descent; weight decay is added to the gradient (L2), as torch does it."""

    class Config(OptimizerSettings):
        """SGD's own settings."""

        state_entries: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"momentum_buffer"}), frozenset())

        momentum: float = Field(0.9, ge=0, lt=1)
        """Share of the last step that goes into the next; 0: none."""
        nesterov: bool = False
        """Nesterov's momentum: the gradient as if the next step had been taken."""

        def check(self) -> None:
            """Raises UserError for Nesterov's momentum of 0."""
            if self.nesterov and self.momentum == 0:
                raise UserError("optimizer.nesterov needs an optimizer.momentum above 0")

    def __init__(self, config: Config) -> None:
        self.config = config

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's SGD over these groups."""
        config = self.config
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
