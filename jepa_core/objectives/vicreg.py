"""VICReg (Bardes, Ponce & LeCun 2022, arXiv 2105.04906) for any number of views.

The paper has two branches Z and Z'; here views count alike: each part is an average over views, or over
pairs of them. Variance and covariance are those of the samples of all processes, by sums with gradient.

Axes: V views, B samples of this process, P width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jepa_core.objectives.base import LossTerm
from jepa_core.objectives.sample_views import On, views_of
from jepa_core.runtime.distributed import all_reduce_sum, world_size
from jepa_core.types.step import Step

EPSILON = 1e-4
"""ε under the root of the variance (paper, eq. 2)."""


class VICReg(LossTerm):
    """Views of a sample alike (invariance), features spread out (variance) and uncorrelated (covariance). It
    judges the samples that are there at once, one micro-batch of each process: `train.micro_batch` and the
    number of processes are part of the method.

    invariance: mean of (z - z')² over pairs of views, samples and width; variance: mean over features of
    max(0, γ - √(Var + ε)); covariance: squared off-diagonal entries of the covariance matrix, summed, over P.
    """

    class Config(LossTerm.Config):
        batchwise: ClassVar[bool] = True
        summed: ClassVar[bool] = True

        on: On = "projections"
        """What is judged: each view's projections, or each context's average feature (methods that mask)."""
        invariance: float = Field(25.0, ge=0)
        """Factor of the invariance part."""
        variance: float = Field(25.0, ge=0)
        """Factor of the variance part."""
        covariance: float = Field(1.0, ge=0)
        """Factor of the covariance part."""
        std: float = Field(1.0, gt=0)
        """γ, the standard deviation below which a feature is pushed apart."""

    config: Config

    def forward(self, step: Step) -> Tensor:
        views = views_of(step, self.config.on)
        covariance = covariances(views)
        variance = covariance.diagonal(dim1=1, dim2=2)
        hinge = F.relu(self.config.std - (variance + EPSILON).sqrt()).mean()
        off_diagonal = covariance.square().sum() - variance.square().sum()
        return (
            self.config.invariance * invariance(views)
            + self.config.variance * hinge
            + self.config.covariance * off_diagonal / (variance.numel())
        )


def invariance(views: Tensor) -> Tensor:
    """Mean of (z - z')² over all pairs of two views of [V, B, P]; 0 for a single view.

    The pairs need not be formed: their mean is 2 V / (V - 1) times the mean of (z - z̄)², z̄ over views.
    """
    count = len(views)
    return 2 * count / max(1, count - 1) * (views - views.mean(0)).square().mean()


def covariances(views: Tensor) -> Tensor:
    """Covariance matrix of each view, [V, P, P], of [V, B, P] and the other processes' samples."""
    samples = views.shape[1] * world_size()
    centred = views - all_reduce_sum(views.sum(1, keepdim=True)) / samples
    return all_reduce_sum(torch.einsum("vbp,vbq->vpq", centred, centred)) / max(1, samples - 1)
