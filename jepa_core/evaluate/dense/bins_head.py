"""DINOv2's linear depth head and its losses (Oquab et al. 2023, arXiv 2304.07193, section 7.4).

The depth of a pixel is a mixture of 256 fixed depths ("bins"), whose weights are a linear function of the
features, made positive and normalised (AdaBins' idea, arXiv 2011.14141, without its transformer).

Axes: B images, N tokens, D width, K bins, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.evaluate.dense.reading import upsample

FLOOR = 0.1
"""Added to the weight of every bin."""
SHIFT = 1e-3
"""Added to depths before their logarithm."""
LAMBDA = 0.15
"""Weight of the squared mean in SigLoss."""
SCALES = (1, 2, 4, 8)
"""Pixels between those that the gradient loss looks at."""
UPSAMPLED = 4
"""Logits stand at so many places a token in each direction."""


class BinsHead(nn.Module):
    """A linear map of standardised features to weights of bins, uniform on [`low`, `high`]."""

    mean: Tensor
    scale: Tensor
    bins: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, low: float, high: float, bins: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("bins", torch.linspace(low, high, bins, device=mean.device))
        self.linear = nn.Linear(len(mean), bins, device=mean.device)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def mix(self, logits: Tensor) -> Tensor:
        """Depths [B, ...] of logits [B, K, ...]: the mean of the bins with weights (relu + 0.1) / sum."""
        sums = torch.stack([self.bins, torch.ones_like(self.bins)])
        weighted, total = torch.einsum("sk,bk...->sb...", sums, logits.relu()).unbind(0)
        return (weighted + FLOOR * self.bins.sum()) / (total + FLOOR * len(self.bins))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Depths [B, 4R, 4C] of tokens [B, N, D] on a grid of R rows and C columns.

        The logits are interpolated, which for a linear map is the same as interpolating the features.
        """
        logits = self.linear((tokens - self.mean) * self.scale)
        fine = upsample(logits, grid, (UPSAMPLED * grid[0], UPSAMPLED * grid[1]))
        return self.mix(fine)

    def depth(self, tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Depths of pixels [B, H, W] of this size."""
        return F.interpolate(self(tokens, grid)[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def log_difference(guess: Tensor, depth: Tensor) -> Tensor:
    """log(guess + 0.001) - log(depth + 0.001)."""
    return (guess + SHIFT).log() - (depth + SHIFT).log()


def sig_loss(guess: Tensor, depth: Tensor, known: Tensor, variance: bool = True) -> Tensor:
    """√(Var g + 0.15 · mean(g)²) over the known pixels, g = `log_difference` (Eigen et al. 2014, eq. 4).

    Without `variance` the second term alone, as DINOv2 does in the first 100 steps.
    """
    g = log_difference(guess[known], depth[known])
    total = LAMBDA * g.mean().square()
    if variance and len(g) > 1:
        total = total + g.var()
    return (total + 1e-12).sqrt()


def gradient_loss(guess: Tensor, depth: Tensor, known: Tensor) -> Tensor:
    """Σ over scales of the mean |difference of g between neighbours|, down and across, over known pairs.

    (Li & Snavely 2018, arXiv 1804.00607, eq. 4). Maps are [B, H, W].
    """
    total = guess.new_zeros(())
    for step in SCALES:
        part, where = (values[:, ::step, ::step] for values in (log_difference(guess, depth), known))
        pairs = [
            (part[:, 1:], part[:, :-1], where[:, 1:] & where[:, :-1]),
            (part[:, :, 1:], part[:, :, :-1], where[:, :, 1:] & where[:, :, :-1]),
        ]
        for one, other, both in pairs:
            if both.any():
                total = total + (one - other)[both].abs().mean()
    return total
