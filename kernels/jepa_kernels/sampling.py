"""`sample_multiblock`: I-JEPA's masks for a whole batch, drawn on the device that will use them.

    drawn = sample_multiblock((14, 14), 128, generator=torch.Generator("cuda"))
    layout rows of sample b: drawn.contexts.index[drawn.contexts.offsets[b] : drawn.contexts.offsets[b + 1]]

What is unusual: nothing is read back to the host or copied from it, so that a CUDA graph can hold the call
(register the generator with the graph). Shapes do not
depend on what is drawn: lists of tokens have a fixed capacity and lie packed at its beginning (a scan and a
scatter where the host would use nonzero), and all the attempts that a sample may need are drawn at once, of
which each takes its first valid one. The law is that of the masker `multiblock` of the plugin jepa_ijepa,
both its exact and its official preset; tests compare them. Plain torch: this needs no kernel of ours.

Axes: A attempts, B samples, M targets, H rows and W columns of the grid, N = H * W tokens, n any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

RETRIES = 20

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Multiblock:
    """Parameters of the mask distribution; defaults are the exact preset.

    targets: blocks to be predicted, M
    target_scale, context_scale: share of the grid that a block covers, [low, high]
    target_aspect: height over width of a target; the context's is 1
    min_keep: every target and every context has more tokens than this
    last_row: whether blocks reach the last row and column
    correlated: whether one number draws scale and aspect
    rounding: "area" (the four ways to round both sides; nearest in area, then in aspect) or "sides" (the area
        down, then each side to nearest)
    retry: for a sample with too few visible tokens. "redraw": all its blocks are placed anew, 20 times at
        most, then targets and context go to opposite corners. "drop": its context is placed anew, and after
        every 20 failures one target more, the last first, stays visible in it
    truncate: "none", or "first": contexts are cut to the smallest of the batch, first tokens first
    """

    targets: int = 4
    target_scale: Range = (0.15, 0.2)
    target_aspect: Range = (0.75, 1.5)
    context_scale: Range = (0.85, 1.0)
    min_keep: int = 0
    last_row: bool = True
    correlated: bool = False
    rounding: Literal["area", "sides"] = "area"
    retry: Literal["redraw", "drop"] = "redraw"
    truncate: Literal["none", "first"] = "none"


OFFICIAL = Multiblock(
    min_keep=10, last_row=False, correlated=True, rounding="sides", retry="drop", truncate="first"
)
"""The rules of I-JEPA's released sampler."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Token lists of S sequences, end to end at the beginning of a tensor of fixed length.

    index: int64 [capacity], ascending in each sequence; behind the last one -1
    offsets: int64 [S + 1]: sequence s is index[offsets[s] : offsets[s + 1]]. Where the capacity did not
        suffice, the last sequences are cut.
    """

    index: Tensor
    offsets: Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """One batch of masks.

    contexts: of B sequences; targets: of M * B, all samples of target 0 first
    starts: int64 [B, M + 1, 2], row and column where each block begins, the context's last
    sizes: int64 [2, 2], height and width of every target, and of every context block
    """

    contexts: Packed
    targets: Packed
    starts: Tensor
    sizes: Tensor


def sample_multiblock(
    grid: Sequence[int],
    batch: int,
    law: Multiblock = Multiblock(),
    *,
    generator: Generator,
    capacity: tuple[int, int] | None = None,
) -> Drawn:
    """Masks for `batch` samples on a grid (H, W), on the generator's device; one size of blocks a batch.

    capacity: room for the tokens of all contexts, and of all targets; by default enough for any draw,
        (B * N, M * B * N). Contexts at 14x14 hold 82 tokens on the average.
    Whether every size that can be drawn leaves more than `min_keep` tokens is not looked at: the plugin's
    masker checks that once, before training.
    Raises ValueError for a grid of another rank, no sample, or more than 30 targets.
    Source: I-JEPA (arXiv 2301.08243), section 3 and appendix A.1.
    """
    height, width = _check_arguments(grid, batch, law)
    device, tokens = generator.device, height * width
    most = capacity or (batch * tokens, law.targets * batch * tokens)
    uniform = torch.rand(2, 2, dtype=torch.float64, generator=generator, device=device)
    sizes = torch.cat(
        [
            block_sides((height, width), uniform[:1], law.target_scale, law.target_aspect, law),
            block_sides((height, width), uniform[1:], law.context_scale, (1.0, 1.0), law),
        ]
    )
    place = _redraw_all if law.retry == "redraw" else _drop_targets
    starts, visible = place((height, width), batch, law, sizes, generator)
    if law.truncate == "first":
        rank = visible.cumsum(1)
        visible = visible & (rank <= rank[:, -1].min())
    hidden = _boxes((height, width), starts[:, : law.targets], sizes[0]).flatten(2).transpose(0, 1)
    return Drawn(pack(visible, most[0]), pack(hidden.flatten(0, 1), most[1]), starts, sizes)


def pack(mask: Tensor, capacity: int) -> Packed:
    """The indices of true values in each row of bool [S, N], packed without reading their number."""
    flat = mask.flatten()
    place = flat.cumsum(0) - 1
    place = torch.where(flat & (place < capacity), place, capacity)
    column = torch.arange(mask.shape[1], device=mask.device).expand_as(mask).flatten()
    index = column.new_full((capacity + 1,), -1).scatter_(0, place, column)
    offsets = torch.zeros(len(mask) + 1, dtype=torch.int64, device=mask.device)
    offsets[1:] = mask.sum(1).cumsum(0).clamp(max=capacity)
    index[capacity] = -1  # tokens that are not packed were scattered here
    return Packed(index[:capacity], offsets)


def block_sides(
    grid: tuple[int, int], uniform: Tensor, scale: Range, aspect: Range, law: Multiblock
) -> Tensor:
    """int64 [n, 2], height and width of blocks, from float64 [n, 2] in [0, 1): draws for scale and aspect."""
    most = [side if law.last_row else max(side - 1, 1) for side in grid]
    area = (scale[0] + uniform[:, 0] * (scale[1] - scale[0])) * (grid[0] * grid[1])
    low, high = aspect[0] * (1 - 1e-9), aspect[1] * (1 + 1e-9)  # an aspect of exactly 1 is no tie
    ratio = low + uniform[:, 0 if law.correlated else 1] * (high - low)
    if law.rounding == "area":
        return _nearest_area(area, ratio, most)
    area = torch.floor(area + 1e-9)
    sides = [(area * ratio).sqrt().round(), (area / ratio).sqrt().round()]
    return torch.stack([side.clamp(1, top) for side, top in zip(sides, most, strict=True)], -1).long()


def _nearest_area(area: Tensor, ratio: Tensor, most: list[int]) -> Tensor:
    area = area.clamp(1, most[0] * most[1])
    height = (area * ratio).sqrt().maximum(area / most[1]).clamp(min=1).minimum(area).clamp(max=most[0])
    way = torch.arange(4, device=area.device)[:, None]  # of rounding: a bit says whether a side goes up
    heights = (height.floor() + way // 2).clamp(1, most[0])
    widths = ((area / height).floor() + way % 2).clamp(1, most[1])
    off = (heights * widths / area).log().abs() + 1e-6 * (heights / (widths * ratio)).log().abs()
    best = off.argmin(0, keepdim=True)
    return torch.cat([heights.gather(0, best), widths.gather(0, best)]).T.long()


def _places(grid: tuple[int, int], sizes: Tensor, law: Multiblock) -> Tensor:
    """int64 [2, 2]: how many starts a target, and a context block, has on each axis."""
    starts = [side + (1 if law.last_row else 0) - sizes[:, axis] for axis, side in enumerate(grid)]
    return torch.stack(starts, -1).clamp(min=1)


def _starts(places: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """int64 [*shape, 2]: uniform over `places` [2] on each axis."""
    fractions = torch.rand(*shape, 2, dtype=torch.float64, generator=generator, device=places.device)
    return (fractions * places).long()


def _boxes(grid: tuple[int, int], starts: Tensor, size: Tensor) -> Tensor:
    """bool [..., N]: the tokens of blocks at starts [..., 2] of one `size` [2]."""
    inside = []
    for axis, side in enumerate(grid):
        past = torch.arange(side, device=starts.device) - starts[..., axis, None]
        inside.append((past >= 0) & (past < size[axis]))
    return (inside[0][..., :, None] & inside[1][..., None, :]).flatten(-2)


def _redraw_all(
    grid: tuple[int, int], batch: int, law: Multiblock, sizes: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Starts [B, M + 1, 2] and visible tokens [B, N] of each sample's first valid attempt, or in corners."""
    places = _places(grid, sizes, law)
    targets = _starts(places[0], (RETRIES + 1, batch, law.targets), generator)
    context = _starts(places[1], (RETRIES + 1, batch, 1), generator)
    starts = torch.cat([targets, context], 2)
    corner = _starts(places.new_full((2,), 2), (1, batch, 1), generator)
    corners = torch.cat(
        [(places[0] - 1) * corner.expand(-1, -1, law.targets, -1), (places[1] - 1) * (1 - corner)], 2
    )
    starts = torch.cat([starts, corners])
    visible = _only_context(grid, starts, torch.cat([sizes[:1].expand(law.targets, -1), sizes[1:]]))
    valid = visible.sum(-1) > law.min_keep
    valid[-1] = True
    first = valid.int().argmax(0)
    sample = torch.arange(batch, device=sizes.device)
    return starts[first, sample], visible[first, sample]


def _only_context(grid: tuple[int, int], starts: Tensor, sizes: Tensor) -> Tensor:
    """bool [A, B, N]: tokens that of all blocks, starts [A, B, M + 1, 2] and sizes [M + 1, 2], the last one
    alone covers. A bit a block, so that two axes meet in one operation: 31 blocks at most."""
    bits = 1 << torch.arange(len(sizes), dtype=torch.int32, device=starts.device)
    covered = []
    for axis, side in enumerate(grid):
        past = torch.arange(side, device=starts.device) - starts[..., axis, None]
        inside = (past >= 0) & (past < sizes[:, axis, None])
        covered.append((inside * bits[:, None]).sum(-2, dtype=torch.int32))
    return ((covered[0][..., :, None] & covered[1][..., None, :]) == bits[-1]).flatten(-2)


def _drop_targets(
    grid: tuple[int, int], batch: int, law: Multiblock, sizes: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Starts and visible tokens by the official retry rule; a summed-area table counts tokens."""
    places, attempts = _places(grid, sizes, law), RETRIES * law.targets + 1
    targets = _starts(places[0], (batch, law.targets), generator)
    contexts = _starts(places[1], (attempts, batch), generator)
    blocks = _boxes(grid, targets, sizes[0])
    hidden = [blocks[:, :count].any(1) for count in range(law.targets, -1, -1)]
    free = ~torch.stack(hidden)  # [M + 1, B, N], after so many targets were given up
    level = torch.arange(attempts, device=sizes.device) // RETRIES
    count = _counts(free.unflatten(-1, grid), level, contexts, sizes[1])
    valid = count > law.min_keep
    valid[-1] = True
    first, sample = valid.int().argmax(0), torch.arange(batch, device=sizes.device)
    context = contexts[first, sample]
    visible = free[level[first], sample] & _boxes(grid, context, sizes[1])
    return torch.cat([targets, context[:, None]], 1), visible


def _counts(free: Tensor, level: Tensor, starts: Tensor, size: Tensor) -> Tensor:
    """int64 [A, B]: free tokens, bool [M + 1, B, H, W], in a block of each attempt at starts [A, B, 2]."""
    table = torch.nn.functional.pad(free.long().cumsum(2).cumsum(3), (1, 0, 1, 0))
    sample = torch.arange(free.shape[1], device=free.device)
    (top, left), (bottom, right) = starts.unbind(-1), (starts + size).unbind(-1)
    corner = lambda row, column: table[level[:, None], sample, row, column]  # noqa: E731
    return corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)


def _check_arguments(grid: Sequence[int], batch: int, law: Multiblock) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"a grid is (H, W), each side at least 1; got {tuple(grid)}")
    if batch < 1:
        raise ValueError(f"at least one sample is wanted; got batch={batch}")
    if not 1 <= law.targets <= 30:
        raise ValueError(f"1 to 30 targets are possible; got {law.targets}")
    return grid[0], grid[1]
