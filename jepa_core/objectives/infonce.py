"""InfoNCE: a sample's prediction should be nearer to its own target than to those of all other samples.

    logits_ij = cos(p_i, t_j) / τ,      loss = ½ [ CE(logits, i) + CE(logitsᵀ, i) ]

What is unusual: the samples of all processes are contrasted, by a gather that carries gradients, so the value
is the same in each of them. The gradient reaches predictions and targets alike where both have one; a target
of another encoder without gradient stays as it is.

Axes: B samples, G pairs of a step, D width.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.objectives.base import LossTerm
from jepa_core.runtime.distributed import all_gather_rows
from jepa_core.types.step import Step

MAX_LOG_SCALE = math.log(100.0)
"""Largest logarithm of 1/τ that is learned, as in CLIP."""


class InfoNCE(LossTerm):
    """Contrasts one vector a sample, the mean of its predicted tokens, with the means of the targets of all.
    Vectors are normalised. It judges the samples that are there at once, one micro-batch of each process:
    `train.micro_batch` and the number of processes are part of the method.

    Several pairs of a step are contrasted each by itself, and averaged. Features that are not finite make the
    value NaN (`train.on_nonfinite` says what then happens). Raises UserError for a single sample, which has
    nothing to be told from, and for predictions and targets that differ in number, samples or width.
    Sources: CPC (arXiv 1807.03748), CLIP (arXiv 2103.00020), VL-JEPA (arXiv 2512.10942).
    """

    class Config(LossTerm.Config):
        batchwise: ClassVar[bool] = True
        summed: ClassVar[bool] = True
        capturable: ClassVar[bool] = True

        temperature: PositiveFloat = 0.07
        """τ, by which cosines are divided; where it is learned, its value at the start."""
        learned: bool = False
        """Whether τ is a parameter (of its logarithm, without weight decay); it stays at .01 or above."""
        symmetric: bool = True
        """Predictions look for their targets and targets for their predictions; or only the former."""

        def check(self) -> None:
            """Raises UserError for a learned temperature that starts below its bound."""
            if self.learned and -math.log(self.temperature) > MAX_LOG_SCALE + 1e-9:
                raise UserError(
                    f"objective {self.name!r}: a learned temperature stays at 0.01 or above; "
                    f"got temperature={self.temperature}"
                )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.learned:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(self, step: Step) -> Tensor:
        vectors = F.normalize(paired_means(step), dim=-1, eps=1e-6)
        predictions, targets = all_gather_rows(vectors).unbind(1)
        count, pairs = predictions.shape[:2]
        if count < 2:
            raise UserError("infonce tells samples from each other and got one; set train.batch_size")
        logits = torch.einsum("bgd,cgd->gbc", predictions, targets) * self.scale()
        own = torch.arange(count, device=logits.device).repeat(pairs)
        loss = F.cross_entropy(logits.flatten(0, 1), own)
        if self.config.symmetric:
            loss = (loss + F.cross_entropy(logits.mT.flatten(0, 1), own)) / 2
        return loss

    def scale(self) -> Tensor | float:
        """1/τ; a learned one is a scalar tensor with gradient, at most 100."""
        if not self.config.learned:
            return 1 / self.config.temperature
        scale: Tensor = _Capped.apply(self.log_scale, MAX_LOG_SCALE).exp()
        return scale


def paired_means(step: Step) -> Tensor:
    """[B, 2, G, D]: the mean prediction and the mean target of each sample and pair, in fp32 (fp64 stays).

    Raises UserError where there are none, or they do not match.
    """
    predictions, targets = step.predictions, step.targets
    if not predictions or len(predictions) != len(targets):
        raise UserError(
            f"infonce contrasts predictions with their targets; got {len(predictions)} and {len(targets)}"
        )
    for p, t in zip(predictions, targets, strict=True):
        expected, actual = (p.at.batch_size, p.width), (t.at.batch_size, t.width)
        if actual != expected:
            raise UserError(
                f"infonce contrasts samples of one width: predictions of {expected[0]} samples, "
                f"{expected[1]} wide; targets of {actual[0]}, {actual[1]} wide"
            )
    means = [torch.stack([tokens.mean() for tokens in side], dim=1) for side in (predictions, targets)]
    wide = torch.promote_types(torch.promote_types(means[0].dtype, means[1].dtype), torch.float32)
    return torch.stack([side.to(wide) for side in means], dim=1)


class _Capped(torch.autograd.Function):
    """The smaller of a value and a bound. Beyond the bound the gradient passes where it leads back alone, for
    `clamp`'s, which is zero there, would hold the value there for ever."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bound = bound
        return value.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return gradient.where((value < ctx.bound) | (gradient > 0), gradient.new_zeros(())), None
