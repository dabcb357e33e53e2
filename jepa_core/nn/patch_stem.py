"""A stem inside each patch: small layers in place of one linear map from pixels to a token.

What is unusual: a stage joins 2×2 neighbouring cells of *one patch*, so patches stay independent of each
other, and those that are masked are left out before the stem as before a linear embedding. Every layer is
a matrix product over packed patches.

Source: the hMLP stem of "Three things everyone should know about vision transformers" (arXiv 2203.09795,
§5), with layer norm for batch norm.

Axes: S packed patches, C channels, P and Q sides of a patch in pixels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from einops.layers.torch import Rearrange
from torch import Tensor, nn

from jepa_core.errors import UserError


class PatchStem(nn.Sequential):
    """Patches [S, C·P·Q], channels first, to tokens [S, D].

    Each width is a stage: 2×2 cells to one of that width, layer norm, GELU; at last a linear map of all cells
    that are left. Raises UserError for a patch whose sides the stages do not halve.
    """

    def __init__(self, patch: tuple[int, int], channels: int, widths: Sequence[int], width: int) -> None:
        (high, wide), stages = patch, len(widths)
        if high % 2**stages or wide % 2**stages:
            raise UserError(
                f"a stem of {stages} stages halves the patch's sides {stages} times; got a patch of "
                f"{high}×{wide}; set encoder.stem to fewer widths, or encoder.patch_size to a multiple of "
                f"{2**stages}"
            )
        layers: list[nn.Module] = [
            Rearrange("s (c h w) -> s h w c", c=channels, h=high, w=wide),
        ]
        for before, after in zip((channels, *widths), widths, strict=False):
            layers += [
                Rearrange("s (h p) (w q) c -> s h w (p q c)", p=2, q=2),
                nn.Linear(4 * before, after),
                nn.LayerNorm(after),
                nn.GELU(),
            ]
        cells = (high >> stages) * (wide >> stages)
        layers += [nn.Flatten(1), nn.Linear(cells * (widths[-1] if widths else channels), width)]
        super().__init__(*layers)

    def forward(self, patches: Tensor) -> Tensor:
        """[S, C·P·Q] to [S, D]."""
        tokens: Tensor = super().forward(patches)
        return tokens
