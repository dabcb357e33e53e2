"""Prediction terms: distances between predictions and targets.

They average over every element of every pair, as if all pairs were one tensor, as I-JEPA does (its loss is
the mean over blocks, tokens and width). With `average = "pairs"` each pair counts the same, however many
tokens it has, as in V-JEPA.

Axes: S packed tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jepa_core.objectives.base import LossTerm, pair_values
from jepa_core.types.padded_set import valid_rows
from jepa_core.types.step import Step


class PredictionTerm(LossTerm, ABC):
    """A distance between predictions and targets, averaged over all that is predicted."""

    class Config(LossTerm.Config):
        capturable: ClassVar[bool] = True

        average: Literal["tokens", "pairs"] = "tokens"
        """Over all predicted `tokens` alike (I-JEPA), or over the `pairs` of context and target, the mean of
        each counting the same (V-JEPA)."""

    config: Config

    @abstractmethod
    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """A scalar, the mean over predictions and targets [S, D]; 0 where they are the same."""

    def forward(self, step: Step) -> Tensor:
        predictions, targets = pair_values(step)
        sets = [tokens.at for tokens in step.predictions]
        if self.config.average == "tokens":
            return self._mean(predictions, targets, valid_rows(sets))
        lengths = [pair.total for pair in sets]
        masks = [pair.valid for pair in sets]
        pairs = zip(predictions.split(lengths), targets.split(lengths), masks, strict=True)
        return torch.stack([self._mean(*pair) for pair in pairs]).mean()

    def _mean(self, predictions: Tensor, targets: Tensor, valid: Tensor | None) -> Tensor:
        """The mean distance over the valid rows [S]: padding is set to equal values and not counted."""
        if valid is None:
            return self.distance(predictions, targets)
        predictions, targets = (torch.where(valid[:, None], x, 1.0) for x in (predictions, targets))
        return self.distance(predictions, targets) * (len(valid) / valid.sum())


class SmoothL1(PredictionTerm):
    """½ d²/β where |d| < β, |d| - ½ β beyond; d = prediction - target. I-JEPA's code uses β = 1."""

    class Config(PredictionTerm.Config):
        beta: float = Field(1.0, gt=0)
        """Where the square becomes a line."""

    config: Config

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean over all elements."""
        return F.smooth_l1_loss(predictions, targets, beta=self.config.beta)


class L1(PredictionTerm):
    """|d|: V-JEPA's loss (exponent 1)."""

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean over all elements."""
        return F.l1_loss(predictions, targets)


class MSE(PredictionTerm):
    """d²: the loss the I-JEPA paper writes."""

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean over all elements."""
        return F.mse_loss(predictions, targets)


class Cosine(PredictionTerm):
    """1 - cos(prediction, target), averaged over tokens."""

    def distance(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The mean over tokens."""
        return 1 - F.cosine_similarity(predictions, targets, dim=-1).mean()
