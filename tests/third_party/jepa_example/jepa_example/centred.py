"""A variant: targets lose their running mean, as DINO's teacher does (Caron et al. 2021, eq. 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from jepa_core import JEPA, MaskPlan, Step, Tokens


class CentredJEPA(JEPA):
    """Changes the stage `make_targets`, and logs how far the centre lies from the origin."""

    class Config(JEPA.Config):
        centre_momentum: float = Field(0.9, ge=0, lt=1)
        """Share of the running mean that stays at each step."""

    config: Config
    centre: Tensor

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.register_buffer("centre", torch.zeros(parts["encoder"].width))

    def make_targets(self, tokens: Tokens, plan: MaskPlan) -> tuple[Tokens, ...]:
        """I-JEPA's targets less the mean of those of earlier steps."""
        targets = super().make_targets(tokens, plan)
        centred = tuple(replace(target, values=target.values - self.centre) for target in targets)
        if self.training:
            mean = torch.cat([target.values for target in targets]).mean(0)
            self.centre.lerp_(mean, 1 - self.config.centre_momentum)
        return centred

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """The engine's, and the length of the centre."""
        return {**super().metrics(step), "centre_norm": self.centre.norm()}
