"""A stem inside each patch: small convolutions in place of one linear map from pixels to a token.

What is unusual: the convolutions end at the border of *their patch*, beyond which there are zeros, so patches
stay independent of each other, and those that are masked are left out before the stem as before a linear
embedding. A convolution of a small patch is one product with a matrix that holds the kernel at all places: it
multiplies by zeros too, and takes half the time of what convolutions are made for, large images.

Source: the convolutional stem of "Early convolutions help transformers see better" (arXiv 2106.14881), with
group norm of one group for batch norm, after the activation.

Axes: S packed patches, C channels, P and Q sides of a patch in pixels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError

KERNEL, STRIDE, PADDING = 3, 2, 1
LARGEST = 64
"""Pixels of a patch up to which a convolution is one product: with more, most of the matrix is zero."""


class PatchStem(nn.Sequential):
    """Patches [S, C·P·Q], channels first, to tokens [S, D].

    Each width is a stage: a 3×3 convolution of stride 2 to that width, GELU, group norm; at last a linear map
    of all cells that are left. Raises UserError for a patch whose sides the stages do not halve.
    """

    def __init__(self, patch: tuple[int, int], channels: int, widths: Sequence[int], width: int) -> None:
        (high, wide), stages = patch, len(widths)
        if high % 2**stages or wide % 2**stages:
            raise UserError(
                f"a stem of {stages} stages halves the patch's sides {stages} times; got a patch of "
                f"{high}×{wide}; set encoder.stem to fewer widths, or encoder.patch_size to a multiple of "
                f"{2**stages}"
            )
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *widths)):
            layers += [PatchConvolution(before, after, (high, wide)), nn.GELU(), PatchNorm(1, after)]
            high, wide = high // STRIDE, wide // STRIDE
        super().__init__(*layers, nn.Linear(high * wide * (channels, *widths)[-1], width))

    def forward(self, patches: Tensor) -> Tensor:
        """[S, C·P·Q] to [S, D]."""
        tokens: Tensor = super().forward(patches)
        return tokens


class PatchConvolution(nn.Conv2d):
    """A 3×3 convolution of stride 2 in each patch: [S, C·P·Q] to [S, C'·P·Q/4], channels first."""

    def __init__(self, before: int, after: int, sides: tuple[int, int]) -> None:
        super().__init__(before, after, KERNEL, STRIDE, PADDING)
        self.sides = sides

    def forward(self, patches: Tensor) -> Tensor:
        """The same values by a product as by a convolution, up to rounding."""
        high, wide = self.sides
        if high * wide > LARGEST:
            planes = rearrange(patches, "s (c p q) -> s c p q", p=high, q=wide)
            return super().forward(planes).flatten(1)
        assert self.bias is not None
        cells = high * wide // STRIDE**2
        return F.linear(patches, self.matrix(), self.bias.repeat_interleave(cells))

    def matrix(self) -> Tensor:
        """[C'·P·Q/4, C·P·Q]: the kernel at every place of a patch; a product, so that its gradient is one."""
        rows, columns = (_reached(side, self.weight) for side in self.sides)
        places = torch.einsum("kyp,lxq->klyxpq", rows, columns).flatten(2, 3).flatten(3)
        kernels = rearrange(self.weight, "d c k l -> (d c) (k l)")
        every = kernels @ places.flatten(0, 1).flatten(1)
        _, _, cells, pixels = places.shape
        return rearrange(every, "(d c) (y p) -> (d y) (c p)", c=self.in_channels, y=cells, p=pixels)


class PatchNorm(nn.GroupNorm):
    """Group norm of one group over the channels and cells of each patch, [S, C·P·Q]."""

    def forward(self, patches: Tensor) -> Tensor:
        """The normalised patches."""
        cells = patches.shape[1] // self.num_channels
        weight, bias = (values.repeat_interleave(cells) for values in (self.weight, self.bias))
        return F.layer_norm(patches, patches.shape[1:], weight, bias, self.eps)


def _reached(side: int, like: Tensor) -> Tensor:
    """[3, side/2, side]: 1 where a place of the kernel at an output cell lies on a pixel, not on padding."""
    offset, cell, pixel = (torch.arange(n, device=like.device) for n in (KERNEL, side // STRIDE, side))
    lies = STRIDE * cell[:, None] - PADDING + offset[:, None, None] == pixel
    return lies.to(like.dtype)
