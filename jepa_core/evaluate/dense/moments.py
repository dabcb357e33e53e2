"""A ridge from sums: features go by in batches, and only their products are kept.

What is unusual: the squared error of a ridge on a part of the samples is a quadratic form in the sums of that
part. So one pass over the data is enough to fit every strength on one part, judge it on the other and fit the
chosen one on both, in the memory of a D × D matrix.

Tokens stand at places of a grid, and what a place has in common (the horizon is far in every picture) can be
most of what varies. `PlacedMoments` keep sums by place too, so that a ridge has an offset of its own at each.

Axes: S samples (tokens, say), B images, N places, D width.
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

    @property
    def size(self) -> Tensor:
        """[D]: the root of the mean square of each feature."""
        return (self.xx.diagonal() / self.count).clamp(min=0).sqrt()

    def fit(self, strength: float, size: Tensor | None = None) -> Ridge:
        """The ridge of standardised features: (XᵀX / n + strength · I) w = Xᵀy / n.

        `size` [D] of the features before anything was subtracted from them, by default their own, tells
        which ones are constant but for rounding.
        """
        centre, mean = self.x / self.count, self.y / self.count
        covariance = self.xx / self.count - torch.outer(centre, centre)
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        size = self.size if size is None else size
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


@dataclass(frozen=True, eq=False)
class PlacedMoments:
    """Sums over tokens, and over those of each place."""

    total: Moments
    count: Tensor
    """[N]."""
    x: Tensor
    """[N, D]."""
    y: Tensor
    """[N]."""

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, known: Tensor) -> PlacedMoments:
        """Of features [B, N, D] and targets [B, N], where these are `known`, bool [B, N]."""
        weight = known.double()
        return cls(
            Moments.of(features[known], targets[known]),
            weight.sum(0),
            torch.einsum("bn,bnd->nd", weight, features.double()),
            torch.where(known, targets.double(), 0.0).sum(0),
        )

    def __add__(self, other: PlacedMoments) -> PlacedMoments:
        return PlacedMoments(
            self.total + other.total, self.count + other.count, self.x + other.x, self.y + other.y
        )

    def means(self) -> tuple[Tensor, Tensor]:
        """(features [N, D], targets [N]) of each place; those of all where a place has none."""
        seen, count = self.count > 0, self.count.clamp(min=1)
        x = torch.where(seen[:, None], self.x / count[:, None], self.total.x / self.total.count)
        return x, torch.where(seen, self.y / count, self.total.y / self.total.count)

    def around(self, x: Tensor, y: Tensor) -> Moments:
        """The sums after x [N, D] and y [N] are subtracted at each place."""
        total, weighted = self.total, x * self.count[:, None]
        cross = x.T @ self.x
        return Moments(
            total.count,
            total.x - weighted.sum(0),
            total.y - (self.count @ y).item(),
            total.xx - cross - cross.T + weighted.T @ x,
            total.xy - x.T @ self.y - self.x.T @ y + weighted.T @ y,
            total.yy - (2 * self.y @ y - self.count @ y.square()).item(),
        )


@dataclass(frozen=True, eq=False)
class PlacedRidge:
    """A ridge of what a token differs by from the mean of its place, [N, D], to what its target does, [N]."""

    ridge: Ridge
    x: Tensor
    y: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[B, N]: how far the targets are from the means of their places, of features [B, N, D]."""
        centred = features.to(self.x) - self.x
        return self.ridge(centred.flatten(0, 1)).view(features.shape[:2])


def fit_placed(
    part: PlacedMoments, judged: PlacedMoments, strengths: Sequence[float] = STRENGTHS
) -> PlacedRidge:
    """The ridge of all tokens with an offset at each place, with the strength that errs least on
    `judged` when fitted on `part`."""
    means, whole = part.means(), part + judged
    inner, outer = part.around(*means), judged.around(*means)
    size = whole.total.size
    errors = [outer.error_of(inner.fit(strength, size)) for strength in strengths]
    x, y = whole.means()
    best = strengths[errors.index(min(errors))]
    return PlacedRidge(whole.around(x, y).fit(best, size), x, y)
