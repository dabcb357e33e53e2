"""Rectangular blocks of tokens: their sizes, their places, the tokens they cover.

What is unusual: a block is a start and a size on each axis of the grid, so the same code serves
sequences `(L,)`, images `(H, W)` and clips `(T, H, W)`, and a whole batch of blocks is placed with one
call to the generator. Scale and aspect speak of the space axes (the last two, or the only one); time
has a scale of its own.

Axes: B samples, M blocks of a sample, R rank of the grid, N tokens of the grid, K tokens of a block,
n any number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.types.index_set import Grid, IndexSet, grid_size

Rounding = Literal["area", "sides"]
Truncation = Literal["first", "random"]


def _one_or_two(number: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a number, or a pair of them: what help and error messages say is allowed."""
    return {"anyOf": [number, {"type": "array", "prefixItems": [number, number]}]}


_POSITIVES = _one_or_two({"type": "number", "exclusiveMinimum": 0})
_SHARES = _one_or_two({"type": "number", "exclusiveMinimum": 0, "maximum": 1})


def _as_pair(value: Any) -> Any:
    if isinstance(value, int | float):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def _share(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1] <= 1:
        raise ValueError("a range [low, high] with 0 < low <= high <= 1")
    return pair


def _check_range(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1] < math.inf:
        raise ValueError("a range [low, high] with 0 < low <= high")
    return pair


ShareRange = Annotated[
    tuple[float, float], BeforeValidator(_as_pair), AfterValidator(_share), WithJsonSchema(_SHARES)
]
"""`[low, high]` within 0 … 1; a single number stands for both ends."""

PositiveRange = Annotated[
    tuple[float, float], BeforeValidator(_as_pair), AfterValidator(_check_range), WithJsonSchema(_POSITIVES)
]
"""`[low, high]` above 0; a single number stands for both ends."""


@dataclass(frozen=True, kw_only=True)
class BlockSampler:
    """How large blocks are: scale and aspect (height / width) uniform in their ranges.

    `rounding="area"` takes, of the four ways to round both sides up or down, the one nearest in area,
    then in aspect: on a 4x4 grid a scale of .15-.2 gives 1x2, 2x1, 2x2, 1x3 and 3x1, never 1x1.
    `rounding="sides"` is the official code's: area rounded down, each side in space rounded by itself, the
    length in time rounded down.
    `correlated` draws scale and aspect with one number; `last_row=False` keeps the sides of a block
    below the sides of the grid, and its last possible start out of reach (both official as well).
    """

    scale: tuple[float, float]
    aspect: tuple[float, float]
    time_scale: tuple[float, float] = (1.0, 1.0)
    rounding: Rounding = "area"
    correlated: bool = False
    last_row: bool = True

    def draw(self, grid: Grid, count: int, generator: Generator) -> Tensor:
        """int64 [n, R]: the sizes of `count` blocks."""
        uniform = torch.rand(count, 3, generator=generator, dtype=torch.float64)
        return torch.from_numpy(self.sizes(grid, uniform.numpy()))

    def reachable(self, grid: Grid, steps: int = 129) -> np.ndarray:
        """int64 [n, R]: the different sizes `draw` can give; those in space found on a lattice of draws."""
        line = np.linspace(0.0, 1.0, steps)
        scale, aspect = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
        sizes = self.sizes(grid, np.stack([scale, aspect, np.zeros_like(scale)], -1))
        codes = np.unique(np.ravel_multi_index(tuple(sizes.T - 1), grid))
        sizes = np.stack(np.unravel_index(codes, grid), -1) + 1
        if len(grid) < 3:
            return sizes
        shortest, longest = self._times(grid[0], np.array([0.0, 1.0])).astype(np.int64)
        times = np.arange(shortest, longest + 1)
        return np.column_stack([times.repeat(len(sizes)), np.tile(sizes[:, 1:], (len(times), 1))])

    def sizes(self, grid: Grid, uniform: np.ndarray) -> np.ndarray:
        """int64 [n, R] from float64 [n, 3] in [0, 1): the draws for scale, aspect and time."""
        scale, aspect, time = uniform.T
        space = grid[-2:]
        area = _interpolate(self.scale, scale) * math.prod(space)
        aspect = _interpolate(_widen(self.aspect), scale if self.correlated else aspect)
        largest = [side if self.last_row else max(side - 1, 1) for side in space]
        if self.rounding == "sides":
            area = np.floor(area + 1e-9)  # 36 / 196 of 196 tokens is 36, not 35
        if len(space) == 1:
            sides = [np.rint(area)]
        else:
            sides = (_round_to_area if self.rounding == "area" else _round_each_side)(area, aspect, largest)
        sides = [np.clip(side, 1, most) for side, most in zip(sides, largest, strict=True)]
        if len(grid) == 3:
            sides.insert(0, self._times(grid[0], time))
        return np.stack(sides, -1).astype(np.int64)

    def _times(self, side: int, uniform: np.ndarray) -> np.ndarray:
        length = _interpolate(self.time_scale, uniform) * side
        whole = np.floor(length + 1e-9) if self.rounding == "sides" else np.rint(length)
        return np.clip(whole, 1, side)

    def places(self, grid: Grid, sizes: Tensor) -> Tensor:
        """int64 [..., R]: how many starts a block of these sizes [..., R] has on each axis."""
        reach = torch.tensor([*grid[:-2], *(side if self.last_row else side - 1 for side in grid[-2:])])
        return (reach + 1 - sizes).clamp(min=1)


def _interpolate(ends: tuple[float, float], uniform: np.ndarray) -> np.ndarray:
    return ends[0] + uniform * (ends[1] - ends[0])


def _widen(aspect: tuple[float, float]) -> tuple[float, float]:
    """A little wider: at an aspect of exactly 1, 13x14 and 14x13 are equally near, and the draw decides."""
    return aspect[0] * (1 - 1e-9), aspect[1] * (1 + 1e-9)


def _round_each_side(area: np.ndarray, aspect: np.ndarray, largest: Sequence[int]) -> list[np.ndarray]:
    return [np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))]


_UP = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
"""Whether height and width are rounded up, in the four ways to round both."""


def _round_to_area(area: np.ndarray, aspect: np.ndarray, largest: Sequence[int]) -> list[np.ndarray]:
    height_most, width_most = largest
    area = np.clip(area, 1, height_most * width_most)
    height = np.sqrt(area * aspect)
    height = np.clip(height, np.maximum(1, area / width_most), np.minimum(height_most, area))
    heights = np.clip(np.floor(height) + _UP[:, :1], 1, height_most)
    widths = np.clip(np.floor(area / height) + _UP[:, 1:], 1, width_most)
    off_area = np.abs(np.log(heights * widths / area))
    off_aspect = np.abs(np.log(heights / (widths * aspect)))
    best = (off_area + 1e-6 * off_aspect).argmin(0), np.arange(len(area))  # aspect breaks ties
    return [heights[best], widths[best]]


def place(places: Tensor, generator: Generator) -> Tensor:
    """int64 [..., R]: a start for each block, uniform over its `places` on each axis, 0 … places - 1."""
    uniform = torch.rand(places.shape, generator=generator, dtype=torch.float64)
    return (uniform * places).long()


def cover(grid: Grid, starts: Tensor, sizes: Tensor) -> Tensor:
    """int64 [B, N]: for each token, the blocks that cover it, block m as bit m; starts, sizes [B, M, R].

    One number for each token in place of M masks, so M is at most 62.
    """
    bits = 1 << torch.arange(starts.shape[1])[:, None]
    covered = torch.full((len(starts), 1), -1)
    for axis, side in enumerate(grid):
        past = torch.arange(side) - starts[..., axis, None]
        inside = (past >= 0) & (past < sizes[..., axis, None])
        on_axis = (inside * bits).sum(1)
        covered = (covered[:, :, None] & on_axis[:, None]).flatten(1)
    return covered


def tokens_of(grid: Grid, starts: Tensor, size: Tensor) -> Tensor:
    """int64 [..., K], ascending: the tokens of blocks with starts [..., R] that share one `size` [R]."""
    strides = [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]
    block = torch.zeros(1, dtype=torch.long)
    for long, stride in zip(size.tolist(), strides, strict=True):
        block = (block[:, None] + torch.arange(long) * stride).flatten()
    return (starts * torch.tensor(strides)).sum(-1, keepdim=True) + block


def split(target: Tensor, tokens: int) -> tuple[IndexSet, IndexSet]:
    """(context, target): the N = `tokens` tokens of a grid without `target` int64 [B, K], and those in it."""
    hidden = torch.zeros(len(target), tokens, dtype=torch.bool).scatter_(1, target, True)
    rest, targets = (mask.nonzero()[:, 1].view(len(target), -1) for mask in (~hidden, hidden))
    return IndexSet.from_dense(rest), IndexSet.from_dense(targets)


def truncate(sets: Sequence[IndexSet], how: Truncation, generator: Generator) -> tuple[IndexSet, ...]:
    """Every sample of every set cut to the size of the smallest: its first tokens, or a random choice."""
    length = min(int(tokens.lengths.min()) for tokens in sets)
    return tuple(
        tokens if tokens.uniform == length else _cut(tokens, length, how, generator) for tokens in sets
    )


def _cut(chosen: IndexSet, length: int, how: Truncation, generator: Generator) -> IndexSet:
    rows = torch.arange(length).expand(chosen.batch_size, length)
    if how == "random":
        keys = torch.rand(chosen.batch_size, chosen.max_length, generator=generator)
        keys[torch.arange(chosen.max_length) >= chosen.lengths[:, None]] = 2.0
        rows = keys.topk(length, largest=False).indices.sort().values
    return IndexSet.from_dense(chosen.index[chosen.offsets[:-1, None] + rows])


def require_rank(masker: str, grid: Grid) -> None:
    """Raises UserError where a grid has not one, two or three sides of at least one token."""
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise UserError(
            f"masker {masker}: got a token grid {grid}; expected (L,), (H, W) or (T, H, W), "
            "each side at least 1"
        )


def size_text(sides: Sequence[int]) -> str:
    """`14x14`."""
    return "x".join(str(side) for side in sides)


def grid_text(grid: Grid) -> str:
    """`a grid of 14x14 (196 tokens)`."""
    return f"a grid of {size_text(grid)} ({grid_size(grid)} tokens)"
