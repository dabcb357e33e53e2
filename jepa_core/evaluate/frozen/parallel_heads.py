"""Linear classifiers trained side by side on the same batches, one for each learning rate.

What is unusual: the gradient of a linear head under cross-entropy is written down, so all heads of one kind
of feature take one matrix product forward and one back, and nothing is recorded for differentiation.

Axes: B samples of a batch, D width, H heads, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Generator, Tensor

MOMENTUM = 0.9
INITIAL_STD = 0.01


class ParallelHeads:
    """H linear heads on features [B, D], trained by SGD with momentum .9 and no weight decay.

    Weights start from N(0, .01²), biases at 0. A head that diverges costs itself only.
    """

    def __init__(
        self, width: int, classes: int, rates: Sequence[float], generator: Generator, device: object = "cpu"
    ) -> None:
        self.heads, self.classes = len(rates), classes
        self.rates = torch.tensor(rates, device=device).repeat_interleave(classes)  # type: ignore[arg-type]
        self.weight = INITIAL_STD * torch.randn(width, self.heads * classes, generator=generator).to(
            self.rates
        )
        self.bias = torch.zeros_like(self.weight[0])
        self._speed = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [B, H, C]."""
        logits = torch.addmm(self.bias, features, self.weight)
        return rearrange(logits, "b (h c) -> b h c", h=self.heads)

    def step(self, features: Tensor, labels: Tensor, factor: float) -> None:
        """One step of each head on features [B, D] and labels int64 [B], at its rate times `factor`."""
        error = self(features).softmax(2)
        error -= torch.nn.functional.one_hot(labels, self.classes)[:, None]
        error = rearrange(error, "b h c -> b (h c)") / len(labels)
        gradients = features.T @ error, error.sum(0)
        for value, speed, gradient in zip((self.weight, self.bias), self._speed, gradients, strict=True):
            speed.mul_(MOMENTUM).add_(gradient)
            value.sub_(factor * self.rates * speed)

    def right(self, features: Tensor, labels: Tensor) -> Tensor:
        """Whether each head is right, bool [B, H]; a head whose logits are not finite never is."""
        logits = self(features)
        finite = logits.isfinite().all(2)
        return logits.nan_to_num().argmax(2).eq(labels[:, None]) & finite
