"""A ridge from sums: features go by in batches, and only their products are kept.

What is unusual: the squared error of a ridge on a part of the samples is a quadratic form in the sums of that
part. So one pass over the data is enough to fit every strength on one part, judge it on the other and fit the
chosen one on both, in the memory of a D × D matrix.

Axes: S samples (tokens, say), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.evaluate.regression import STRENGTHS, Ridge

CONSTANT = 1e-6
"""A feature that varies less than this share of its size is constant but for rounding, and is left out."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over samples of features x and one number y each, in float64."""

    count: float
    x: Tensor
    """[D]."""
    y: float
    xx: Tensor
    """[D, D]."""
    xy: Tensor
    """[D]."""
    yy: float

    @classmethod
    def of(cls, features: Tensor, targets: Tensor) -> Moments:
        """Of features [S, D] and targets [S]."""
        x, y = features.double(), targets.double()
        return cls(len(y), x.sum(0), y.sum().item(), x.T @ x, x.T @ y, y.square().sum().item())

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def fit(self, strength: float) -> Ridge:
        """The ridge of standardised features: (XᵀX / n + strength · I) w = Xᵀy / n."""
        centre, mean = self.x / self.count, self.y / self.count
        covariance = self.xx / self.count - torch.outer(centre, centre)
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        size = (self.xx.diagonal() / self.count).sqrt()
        scale = torch.where(deviation > CONSTANT * size, 1 / deviation.clamp(min=1e-30), 0.0)
        gram = covariance * torch.outer(scale, scale)
        right = (self.xy / self.count - centre * mean) * scale
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram + strength * eye, right)
        return Ridge(centre, scale, weight[:, None], gram.new_tensor([mean]), strength)

    def error_of(self, ridge: Ridge) -> float:
        """The mean squared error of a ridge on these samples."""
        weight = ridge.weight[:, 0] * ridge.scale
        offset = ridge.intercept[0] - ridge.centre @ weight
        squares = self.yy + offset.square() * self.count + weight @ self.xx @ weight
        products = offset * self.y + weight @ self.xy - offset * (weight @ self.x)
        return ((squares - 2 * products) / self.count).item()


def fit_streamed(part: Moments, judged: Moments, strengths: Sequence[float] = STRENGTHS) -> Ridge:
    """The ridge of all samples, with the strength that errs least on `judged` when fitted on `part`."""
    errors = [judged.error_of(part.fit(strength)) for strength in strengths]
    return (part + judged).fit(strengths[errors.index(min(errors))])
