"""Rotary positions (Su et al. 2021, arXiv 2104.09864) for token grids of any rank, over packed tokens.

Of the E dimensions of a head each of n axes gets F = 2·⌊⌊E/n⌋/2⌋, in the grid's order; what is left over is
not turned. Along an axis, position p turns the pair of dimensions (2k, 2k+1) by the angle p·ω_k with
ω_k = 10000^(−k/(F/2)), so scores depend on differences of positions alone. V-JEPA 2 (arXiv 2506.09985)
shares out the dimensions so for (T, H, W); its released code gives the two dimensions of a pair different
frequencies (ω_0 … ω_{F/2−1}, twice), which is no rotation, and its checkpoints rely on it. Not done here.

What is unusual: a `Rotary` stands where a layout stands, and holds it, so blocks pass it on to attention.

Axes: S packed tokens, N tokens of the grid, H heads, E dimensions of a head, F of an axis, R those turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types.batch import Device
from jepa_core.types.index_set import Grid
from jepa_kernels import Layout


@dataclass(frozen=True, eq=False)
class Rotary:
    """An attention layout, and the angles by which packed tokens' queries and keys are rotated.

    `cos`, `sin`: [S, 1, 1, R/2], one angle for each pair of dimensions.
    """

    layout: Layout
    cos: Tensor
    sin: Tensor

    def turn(self, qkv: Tensor) -> Tensor:
        """[S, 3, H, E] with queries and keys turned, values as they are; at least in fp32 inside."""
        turned = 2 * self.cos.shape[-1]
        wide = torch.promote_types(qkv.dtype, self.cos.dtype)
        pairs = rearrange(qkv[:, :2, :, :turned].to(wide), "s qk h (r two) -> two s qk h r", two=2)
        first, second = pairs.unbind(0)
        cos, sin = self.cos.to(wide), self.sin.to(wide)
        both = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
        queries_keys = torch.cat([both.flatten(-2).to(qkv.dtype), qkv[:, :2, :, turned:]], dim=-1)
        return torch.cat([queries_keys, qkv[:, 2:]], dim=1)


def rotary(grid: Grid, index: Tensor, head_width: int, layout: Layout) -> Rotary:
    """For packed tokens that stand at `index` int64 [S] of the grid, in heads of `head_width` dimensions.

    Raises UserError where an axis of the grid would get no pair of dimensions.
    """
    table = (
        _cached_table.__wrapped__ if torch.compiler.is_compiling() else _cached_table
    )  # it traces through a cache
    angles = table(tuple(grid), head_width, index.device).index_select(0, index)[:, None, None]
    return Rotary(layout, angles.cos(), angles.sin())


def check_head_width(grid: Grid, head_width: int) -> None:
    """Raises UserError where an axis of the grid would get no pair of dimensions."""
    if _share(len(grid), head_width) < 2:
        raise UserError(
            f"rotary positions of a grid of {len(grid)} axes need heads of at least {2 * len(grid)} "
            f"dimensions; got {head_width}"
        )


def _share(rank: int, head_width: int) -> int:
    return 2 * (head_width // rank // 2)


@lru_cache(maxsize=64)
def _cached_table(grid: Grid, head_width: int, device: Device) -> Tensor:
    """[N, R/2] angles, made in float64 and rounded once to fp32."""
    check_head_width(grid, head_width)
    half = _share(len(grid), head_width) // 2
    with torch.inference_mode(False):  # a table first needed in inference must serve training too
        frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
        sides = [torch.arange(side, dtype=torch.float64, device="cpu") for side in grid]
        axes = torch.meshgrid(*sides, indexing="ij")
        angles = torch.cat([torch.outer(axis.reshape(-1), frequency) for axis in axes], dim=1)
        return angles.to(device=device, dtype=torch.float32)
