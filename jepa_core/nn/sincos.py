"""Fixed sine-cosine position tables for token grids of any rank.

What is unusual: a table is computed for the grid at hand, in float64, whenever a new grid is seen; none
is ever resized. So weights made at one image size serve any other, square or not.

Along an axis that gets F dimensions, position p is F/2 sines and then F/2 cosines of p·ω_k with
ω_k = 10000^(−k/(F/2)), k = 0 … F/2−1. How a width D is shared out:

- rank 1 `(L,)`: all of D.
- rank 2 `(H, W)`: D/2 for the COLUMN first, then D/2 for the ROW (I-JEPA's order).
- rank n ≥ 3 `(T, H, W)`: 2·⌈D/2n⌉ for each axis in the grid's order, cut at D (V-JEPA's `uniform_power`).

Axes: N tokens of the grid, D width, F dimensions of one axis.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types.batch import Device
from jepa_core.types.index_set import Grid


def sincos(
    grid: Grid,
    width: int,
    scale: float = 1.0,
    *,
    device: Device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[N, D] positions of the tokens of `grid`, row-major, D = `width`. Values lie in −`scale` … `scale`.

    Computed in float64 and rounded once to `dtype`. The result is cached and shared: do not write to it.
    Raises UserError for a width that cannot be shared out among the axes of the grid.

    Source: I-JEPA (arXiv 2301.08243) for rank 2, V-JEPA (arXiv 2404.08471) for rank 3.
    """
    table = (
        _cached_table.__wrapped__ if torch.compiler.is_compiling() else _cached_table
    )  # it traces through a cache
    return table(tuple(grid), width, scale, torch.device(device or "cpu"), dtype)


def sincos_like(
    weight: Tensor, grid: Grid, width: int, scale: float, device: torch.device | None = None
) -> Tensor:
    """[N, D]: the `sincos` table in the type of an encoder's weights, on their device unless one is named."""
    return sincos(grid, width, scale, device=device or weight.device, dtype=weight.dtype)


def scale_of(table: Tensor, grid: Grid) -> float | None:
    """The scale at which `sincos` gives this table [N, D], or None where it is another table.

    Compared within 1e-4, or what the table's own type resolves where that is coarser. A scale of few digits
    is taken for meant where it is as good: .2 of a table in bf16, not .2001.
    """
    width = table.shape[-1]
    if (
        not table.is_floating_point()
        or len(grid) != 2
        or width % 4
        or table.shape != (math.prod(grid), width)
    ):
        return None
    unit, stored = sincos(grid, width, dtype=torch.float64), table.double()
    fitted = ((unit * stored).sum() / (unit * unit).sum()).item()
    for scale, within in (*((round(fitted, digits), 1e-5) for digits in (1, 2, 3, 4)), (fitted, 1e-4)):
        allowed = max(within, torch.finfo(table.dtype).eps * abs(scale))
        if scale > 0 and (stored - scale * unit).abs().max().item() <= allowed:
            return scale
    return None


def check_width(grid: Grid, width: int) -> None:
    """Raises UserError where `width` cannot be shared out among the axes of `grid`."""
    rank = len(grid)
    if rank == 0 or min(grid) < 1:
        raise UserError(f"a token grid has at least one axis, each of 1 or more; got {grid}")
    multiple = 4 if rank == 2 else 2
    if width < multiple or width % multiple:
        raise UserError(
            f"sine-cosine positions of a grid of {rank} axes need a width that divides by {multiple}; "
            f"got {width}"
        )
    if rank > 2 and _share(rank, width) * (rank - 1) >= width:
        raise UserError(
            f"a width of {width} leaves no dimension for the last of the {rank} axes of grid {grid}"
        )


@lru_cache(maxsize=64)
def _cached_table(grid: Grid, width: int, scale: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    check_width(grid, width)
    with torch.inference_mode(False):  # a table first needed in inference must serve training too
        return (scale * _table(grid, width)).to(device=device, dtype=dtype)


def _table(grid: Grid, width: int) -> Tensor:
    """[N, D] float64 on the CPU."""
    sides = [torch.arange(side, dtype=torch.float64, device="cpu") for side in grid]
    axes = [axis.reshape(-1) for axis in torch.meshgrid(*sides, indexing="ij")]
    if len(grid) == 2:
        axes.reverse()
    share = _share(len(grid), width)
    return torch.cat([_waves(axis, share) for axis in axes], dim=1)[:, :width]


def _share(rank: int, width: int) -> int:
    return 2 * math.ceil(width / (2 * rank))


def _waves(position: Tensor, share: int) -> Tensor:
    """[N, F] from positions [N]."""
    half = share // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
    angle = torch.outer(position, frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
