"""A stem inside each patch: small convolutions in place of one linear map from pixels to a token.

What is unusual: the convolutions end at the border of *their patch*, beyond which there are zeros, so patches
stay independent of each other, and those that are masked are left out before the stem as before a linear
embedding.

Source: the convolutional stem of "Early convolutions help transformers see better" (arXiv 2106.14881), with
group norm of one group for batch norm, after the activation.

Axes: S packed patches, C channels, P and Q sides of a patch in pixels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from einops.layers.torch import Rearrange
from torch import Tensor, nn

from jepa_core.errors import UserError


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
        layers: list[nn.Module] = [Rearrange("s (c p q) -> s c p q", c=channels, p=high, q=wide)]
        for before, after in pairwise((channels, *widths)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU(), nn.GroupNorm(1, after)]
        cells = (high >> stages) * (wide >> stages)
        super().__init__(*layers, nn.Flatten(1), nn.Linear(cells * (channels, *widths)[-1], width))

    def forward(self, patches: Tensor) -> Tensor:
        """[S, C·P·Q] to [S, D]."""
        tokens: Tensor = super().forward(patches)
        return tokens
