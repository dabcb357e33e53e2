"""Variance and covariance of the context encoder's features, as C-JEPA adds them to I-JEPA.

Axes: S packed tokens or samples, D width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jepa_core.objectives.base import LossTerm
from jepa_core.types.step import Step


class VarianceCovariance(LossTerm):
    """Keeps the context encoder's features spread out and uncorrelated (VICReg, 2105.04906, eq. 1, 3).

    variance: mean over features of max(0, γ - √(Var + ε)); covariance: sum of squared off-diagonal
    entries of the covariance matrix, divided by D. C-JEPA adds these two to I-JEPA.
    """

    class Config(LossTerm.Config):
        batchwise: ClassVar[bool] = True
        capturable: ClassVar[bool] = True

        on: Literal["mean", "tokens"] = "mean"
        """What is spread: each sample's average feature, or its tokens."""
        std: float = Field(1.0, gt=0)
        """γ, the standard deviation below which a feature is pushed apart."""
        variance: float = Field(1.0, ge=0)
        """Factor of the variance part."""
        covariance: float = Field(0.04, ge=0)
        """Factor of the covariance part (VICReg: 1 to 25 against the variance)."""

    config: Config

    def forward(self, step: Step) -> Tensor:
        if self.config.on == "mean":
            terms = [self._term(tokens.mean().float()) for tokens in step.contexts]
        else:
            terms = [self._term(tokens.values.float(), tokens.at.valid) for tokens in step.contexts]
        return torch.stack(terms).mean()

    def _term(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """The term of features [S, D], of which the `valid` rows [S] count (all without it)."""
        width = features.shape[1]
        if valid is None:
            centred = features - features.mean(0)
            covariance = centred.T @ centred / max(1, len(features) - 1)
        else:
            mean = (features * valid[:, None]).sum(0) / valid.sum()
            centred = (features - mean) * valid[:, None]
            covariance = centred.T @ centred / (valid.sum() - 1).clamp(min=1)
        std = (covariance.diagonal() + 1e-4).sqrt()
        off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
        hinge = F.relu(self.config.std - std).mean()
        return self.config.variance * hinge + self.config.covariance * off_diagonal / width
