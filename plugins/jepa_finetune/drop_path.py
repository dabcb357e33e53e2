"""Stochastic depth for encoders over packed tokens (Huang et al. 2016, arXiv 1603.09382).

What is unusual: timm's drop path drops rows of a tensor's first axis, which in packed tokens are tokens, not
samples. This one drops whole samples, of whole views: all samples then have equally many tokens.

Axes: B samples, S packed tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from jepa_core.errors import UserError

BRANCHES = ("drop_path1", "drop_path2")
"""Where timm's blocks have their drop path, one for each residual branch."""


class SampleDropPath(nn.Module):
    """In training, zeros for a share of the samples; the others are scaled up by 1 / (1 - share)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.samples = share, 1

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [S, D] of `samples` samples, a residual branch's output."""
        if not self.training or not self.share:
            return x
        stays = torch.rand(self.samples, 1, 1, device=x.device) >= self.share
        rows = rearrange(x, "(b n) d -> b n d", b=self.samples)
        return (rows * stays / (1 - self.share)).to(x.dtype).flatten(0, 1)


def add_drop_path(encoder: nn.Module, last: float) -> None:
    """Puts drop path into the encoder's blocks, from 0 in the first to `last` in the last one.

    Raises UserError for an encoder whose blocks are not timm's.
    """
    if not has_branches(encoder):
        raise UserError(
            f"variant.drop_path: the blocks of {type(encoder).__name__} have no drop path; expected timm's "
            "blocks, or variant.drop_path=0"
        )
    blocks: nn.ModuleList = dict(encoder.named_children())["blocks"]  # type: ignore[assignment]
    for number, block in enumerate(blocks):
        for branch in BRANCHES:
            setattr(block, branch, SampleDropPath(last * number / max(1, len(blocks) - 1)))


def has_branches(encoder: Any) -> bool:
    """Whether an encoder has blocks whose residual branches can be left out, as timm's can."""
    blocks = dict(encoder.named_children()).get("blocks")
    if not isinstance(blocks, nn.ModuleList | nn.Sequential):
        return False
    return all(branch in dict(block.named_children()) for block in blocks for branch in BRANCHES)


def set_samples(encoder: nn.Module, samples: int) -> None:
    """Tells the drop paths of how many samples the coming views are."""
    for module in encoder.modules():
        if isinstance(module, SampleDropPath):
            module.samples = samples
