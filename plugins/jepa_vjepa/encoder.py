"""The encoder: a vision transformer over the tubelets of a clip that are kept.

What is unusual:
- a token is a tubelet, two frames of a patch; tubelets are gathered *before* they are embedded, and stay
  packed [S, D] to the end; sets may be ragged
- the embedding is one matrix product with the weight of a 3-D convolution, the same map
- positions in time, row and column are computed for the clip at hand, so other lengths and sizes work; they
  are a sine-cosine table that is added, or turn queries and keys (`positions = "rope"`)

Axes: B samples, C channels, T frames, S packed tokens, N tokens of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from pydantic import PositiveFloat, PositiveInt
from timm.layers import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.nn.attention import (
    PackedBlock,
    Residual,
    check_layers,
    choose_implementation,
    run_blocks,
    to_residual,
)
from jepa_core.nn.fused_linear import fuse_linears
from jepa_core.nn.patch_grid import image_sides, kept_tokens, patch_grid
from jepa_core.nn.rotary import check_head_width, rotary
from jepa_core.nn.sincos import check_width, sincos_like
from jepa_core.nn.weight_init import draw_weights
from jepa_core.settings import ComponentSettings
from jepa_core.types import Grid, IndexSet, Tokens, grid_size

CHANNELS = 3

SIZES: dict[str, dict[str, Any]] = {
    "vjepa_tiny": {"width": 192, "depth": 12, "heads": 3},
    "vjepa_small": {"width": 384, "depth": 12, "heads": 6},
    "vjepa_base": {"width": 768, "depth": 12, "heads": 12},
    "vjepa_large": {"width": 1024, "depth": 24, "heads": 16},
    "vjepa_huge": {"width": 1280, "depth": 32, "heads": 16},
    "vjepa_giant": {"width": 1408, "depth": 40, "heads": 22, "mlp_ratio": 48 / 11},
}
"""Width, blocks and heads; the giant is V-JEPA 2's."""


class TubeletEncoder(nn.Module):
    """Clips [B, C, T, H, W] to features of their kept tubelets.

    Raises UserError for sizes that do not divide.
    Source: V-JEPA (arXiv 2404.08471); rotary positions: V-JEPA 2 (arXiv 2506.09985).
    """

    class Config(ComponentSettings):
        """Settings of the encoder. A size that is not given is the named model's own."""

        carried: ClassVar[frozenset[str]] = frozenset({"frames", "image_size", "tubelet", "patch_size"})

        frames: PositiveInt = 16
        """Frames of a clip, T. The encoder takes other lengths as well."""
        image_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 224
        """Side of the frames in pixels, or (height, width). The encoder takes other sizes as well."""
        tubelet: PositiveInt = 2
        """Frames of a token."""
        patch_size: PositiveInt = 16
        """Side of a token in pixels."""
        width: PositiveInt | None = None
        """Width of the features, D."""
        depth: PositiveInt | None = None
        """Number of transformer blocks."""
        heads: PositiveInt | None = None
        """Attention heads of each block."""
        mlp_ratio: PositiveFloat | None = None
        """Hidden width of the MLPs over the width; 4, or the giant's own."""
        positions: Literal["sincos", "rope"] = "sincos"
        """A fixed sine-cosine table that is added to the tubelets (V-JEPA), or rotary positions inside
        attention (V-JEPA 2)."""
        position_scale: float = 1.0
        """Factor on the sine-cosine positions, whose own amplitude is 1."""
        init_std: PositiveFloat = 0.02
        """Standard deviation of the initial weights."""
        change_gain: PositiveFloat = 1.0
        """Factor, at the start, on how a tubelet's weights differ from frame to frame: above 1, change, which
        is small beside what stays, weighs more from the first step on. Off in V-JEPA."""
        checkpoint: bool = False
        """Recompute activations in the backward pass: less memory, about a third more time."""
        residual: Residual = "auto"
        """Type in which tokens are added up from block to block under bf16: `fp32`, `autocast` (bf16 too), or
        `auto`: fp32 on a GPU, autocast on a CPU."""
        attention: str = "auto"
        """Implementation of attention, of `jepa_kernels.ATTENTION_IMPLS`; `auto` takes the best usable."""

        def size(self, name: str) -> Any:
            """`width`, `depth`, `heads` or `mlp_ratio`: as set, else the named model's."""
            value = getattr(self, name)
            return SIZES[self.name].get(name, 4.0) if value is None else value

        def check(self) -> None:
            """Raises UserError for heads that do not divide the width."""
            width, heads = self.size("width"), self.size("heads")
            if width % heads:
                raise UserError(
                    f"encoder {self.name!r}: a width of {width} cannot be split among {heads} heads; "
                    "set encoder.width or encoder.heads"
                )

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.width, self.depth, self.heads = (config.size(name) for name in ("width", "depth", "heads"))
        self.patch = (config.tubelet, config.patch_size, config.patch_size)
        self.patch_embed = nn.Conv3d(CHANNELS, self.width, self.patch, stride=self.patch)
        self.blocks = nn.Sequential(*(self._block() for _ in range(self.depth)))
        self.norm = LayerNorm(self.width)
        draw_weights(self, config.init_std)
        if config.change_gain != 1:
            _amplify_change(self.patch_embed.weight, config.change_gain)
        choose_implementation(self, config.attention)
        fuse_linears(self)
        grid = self.grid(self.view_shape())
        try:
            if config.positions == "rope":
                check_head_width(grid, self.width // self.heads)
            else:
                check_width(grid, self.width)
        except UserError as error:
            raise UserError(f"encoder {config.name!r}: {error}; set encoder.width") from None

    def view_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the clips that the settings speak of."""
        return (CHANNELS, self.config.frames, *image_sides(self.config.image_size))

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(times, rows, columns) of tubelets in a clip of shape (C, T, H, W).

        Raises UserError for another number of channels, and for sides that the tubelet does not divide.
        """
        named = "encoder.frames, image_size, tubelet or patch_size"
        return patch_grid(self.config.name, view_shape, CHANNELS, self.patch, named)

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, D] of the tubelets at `keep` (all without it) of clips [B, C, T, H, W].

        `layers` names blocks, 1 … depth, whose outputs are wanted too, without the final norm.
        Raises UserError for clips that do not fit, and for layers and batch sizes that are not there.
        """
        grid = self.grid(view.shape[1:])
        check_layers(layers, self.depth)
        x, at = self._embed(view, keep, grid)
        rope = self.config.positions == "rope"
        places = rotary(grid, at.index, self.width // self.heads, at.layout) if rope else at.layout
        x, outputs = run_blocks(self.blocks, x, places, recompute=self.config.checkpoint, layers=layers)
        return Tokens(self.norm(x), at, grid, outputs)

    def _embed(self, view: Tensor, keep: IndexSet | None, grid: Grid) -> tuple[Tensor, IndexSet]:
        """Embedded tubelets [S, D], with the table's positions where there is one, and where they stand."""
        time, high, wide = self.patch
        tubelets = rearrange(view, "b c (t u) (h p) (w q) -> (b t h w) (c u p q)", u=time, p=high, q=wide)
        at = kept_tokens(keep, view, grid)
        if keep is not None:
            tubelets = tubelets.index_select(0, at.flat(grid_size(grid)))
        x = F.linear(tubelets, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        if self.config.positions == "sincos":
            x = x + self.positions(grid, x.device).index_select(0, at.index)
        return to_residual(x, self.config.residual), at

    def positions(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        """[N, D]: the fixed table that is added to the tubelets."""
        return sincos_like(self.patch_embed.weight, grid, self.width, self.config.position_scale, device)

    def _block(self) -> PackedBlock:
        return PackedBlock(self.width, self.heads, mlp_ratio=self.config.size("mlp_ratio"), qkv_bias=True)


@torch.no_grad()
def _amplify_change(weight: Tensor, gain: float) -> None:
    """Moves tubelet weights [D, C, T, H, W], in place, `gain` times as far from their mean over T."""
    mean = weight.mean(2, keepdim=True)
    weight.copy_(mean + gain * (weight - mean))
