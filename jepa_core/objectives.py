"""Loss terms. Each sees the whole `Step` and returns one scalar; a recipe adds up as many as it likes.

The prediction terms average over every element of every pair, as if all pairs were one tensor:
I-JEPA's law (its loss is the mean over blocks, tokens and width). With `average = "pairs"` each pair counts
the same, however many tokens it has: V-JEPA's.

Axes: B samples, S packed tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.settings.base import ObjectiveSettings
from jepa_core.types.padded_set import valid_rows
from jepa_core.types.step import Step


class LossTerm(nn.Module):
    """A term that keeps its settings. Its own are `ObjectiveSettings` alone, unless it has more."""

    class Config(ObjectiveSettings):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config


def paired(step: Step) -> tuple[Tensor, Tensor]:
    """Predictions and targets of all pairs, [S, D] each, in fp32 (fp64 stays).

    Raises ValueError where there is nothing to compare.
    """
    if not step.predictions:
        raise ValueError(
            f"this term compares predictions with targets; the plan has {len(step.plan.pairs)} pairs "
            "and the model made no predictions"
        )
    predictions = torch.cat([p.values for p in step.predictions])
    targets = torch.cat([t.values for t in step.targets])
    wide = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    return predictions.to(wide), targets.to(wide)


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
        predictions, targets = paired(step)
        sets = [tokens.at for tokens in step.predictions]
        if self.config.average == "tokens":
            return self._mean(predictions, targets, valid_rows(sets))
        lengths = [one.total for one in sets]
        masks = [one.valid for one in sets]
        each = zip(predictions.split(lengths), targets.split(lengths), masks, strict=True)
        return torch.stack([self._mean(*pair) for pair in each]).mean()

    def _mean(self, predictions: Tensor, targets: Tensor, real: Tensor | None) -> Tensor:
        """The distance over rows that are real [S]: the others are made equal, and not counted."""
        if real is None:
            return self.distance(predictions, targets)
        predictions, targets = (torch.where(real[:, None], x, 1.0) for x in (predictions, targets))
        return self.distance(predictions, targets) * (len(real) / real.sum())


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

    def _term(self, features: Tensor, real: Tensor | None = None) -> Tensor:
        """The term of features [S, D], of which those of `real` rows [S] count (all without it)."""
        width = features.shape[1]
        if real is None:
            centred = features - features.mean(0)
            covariance = centred.T @ centred / max(1, len(features) - 1)
        else:
            mean = (features * real[:, None]).sum(0) / real.sum()
            centred = (features - mean) * real[:, None]
            covariance = centred.T @ centred / (real.sum() - 1).clamp(min=1)
        std = (covariance.diagonal() + 1e-4).sqrt()
        off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
        hinge = F.relu(self.config.std - std).mean()
        return self.config.variance * hinge + self.config.covariance * off_diagonal / width
