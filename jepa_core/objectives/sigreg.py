"""SIGReg: projections should look like draws from a standard normal, along every direction (LeJEPA).

    EP = n ∫ |φ̂(t) - exp(-t²/2)|² exp(-t²/2) dt,    φ̂(t) = mean over n samples of exp(i t ⟨slice, sample⟩)

What is unusual: the samples of all processes make up φ̂, by sums that carry gradients; slices follow from
the number of the optimizer step alone, so every process, micro-batch and resumed run draws the same.

Axes: V views, B samples of this process, P width, M slices, T knots.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jepa_core.objectives.base import LossTerm
from jepa_core.objectives.sample_views import On, views_of
from jepa_core.runtime.distributed import all_reduce_sum, world_size
from jepa_core.runtime.seeding import step_generator
from jepa_core.types.step import Step


class SIGReg(LossTerm):
    """Epps and Pulley's statistic of normality, averaged over random directions and views. It judges the
    samples that are there at once, one micro-batch of each process: `train.micro_batch` and the number of
    processes are part of the method.

    It grows with the number of samples where they are not normal, so fewer need a larger weight. The integral
    is the trapezoid rule on knots from 0 on, doubled, for the integrand is even.
    Sources: LeJEPA (arXiv 2511.08544); Epps & Pulley (Biometrika 70, 1983).
    """

    class Config(LossTerm.Config):
        batchwise: ClassVar[bool] = True
        summed: ClassVar[bool] = True

        on: On = "projections"
        """What is judged: each view's projections, or each context's average feature (methods that mask)."""
        slices: int = Field(256, ge=1, le=65536)
        """Random directions of a step (LeJEPA: 256 to 1024)."""
        knots: int = Field(17, ge=2)
        """Points at which the characteristic functions are compared, T."""
        reach: float = Field(3.0, gt=0)
        """The last point; the first is 0."""

    config: Config

    def forward(self, step: Step) -> Tensor:
        views = views_of(step, self.config.on)
        slices = unit_slices(views.shape[-1], self.config.slices, step.number).to(views)
        return self.statistic(views @ slices).mean()

    def statistic(self, values: Tensor) -> Tensor:
        """Epps and Pulley's statistic, [V, M], of values [V, B, M] along their slices."""
        t = torch.linspace(0, self.config.reach, self.config.knots, dtype=values.dtype, device=values.device)
        normal = (-t.square() / 2).exp()
        angles = values[..., None] * t
        samples = values.shape[1] * world_size()
        real, imaginary = all_reduce_sum(torch.stack([angles.cos().sum(1), angles.sin().sum(1)])) / samples
        distance = (real - normal).square() + imaginary.square()
        return 2 * samples * torch.trapezoid(distance * normal, t)


@torch.compiler.disable
def unit_slices(width: int, count: int, step: int) -> Tensor:
    """Directions of length 1, float64 [P, M], uniform on the sphere: the same for everyone at a step."""
    generator = step_generator(0, 0, step, "slices")
    slices = torch.randn(width, count, generator=generator, dtype=torch.float64)
    return slices / slices.norm(dim=0)
