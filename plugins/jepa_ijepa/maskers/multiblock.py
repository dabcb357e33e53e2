"""The multi-block masker of I-JEPA (2301.08243, §3 and Table 6): a few target blocks, a large context
block, and what is visible is the context block without any of the targets.

What is unusual: it is exact. The official sampler cuts every context to the smallest of its batch,
first tokens first (at 14x14 and batch 128 that drops 40 % of the visible tokens, nearly all from the
bottom), never uses the last row and column, draws scale and aspect with one number, and does not end
where a block is too small. Here contexts stay ragged, every row and column is used, draws are
independent, a setting that cannot work is an error before training, and each of those habits is a
setting, for replication: `truncate="first"`, `last_row=False`, `correlated=True`,
`rounding="sides"`, `retry="drop"`, `min_keep=10`.

Axes: B samples, M targets, C contexts, R rank of the grid, N tokens of the grid.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.maskers import blocks as blocks
from jepa_core.maskers.blocks import BlockSampler, PositiveRange, Rounding, ShareRange
from jepa_core.settings import MaskerSettings
from jepa_core.types import Grid, IndexSet, MaskPlan

RETRIES = 20


class Multiblock:
    """M target blocks a sample, C context blocks without any token of a target.

    A plan has C context sets (ragged) and M target sets (uniform, unless `sizes="sample"`), ascending;
    targets may overlap each other. Every set has more than `min_keep` tokens.
    """

    class Config(MaskerSettings):
        targets: int = Field(4, ge=1, le=32)
        """Target blocks of a sample (paper: 4)."""
        target_scale: ShareRange = (0.15, 0.2)
        """Share of the grid that a target block covers; of its space, where the grid has a time axis."""
        target_aspect: PositiveRange = (0.75, 1.5)
        """Height over width of a target block; unused on a grid of rank 1."""
        contexts: int = Field(1, ge=1, le=16)
        """Context blocks of a sample (paper: 1)."""
        context_scale: ShareRange = (0.85, 1.0)
        """Share of the grid that a context block covers before targets are taken out; a square, all times."""
        time_scale: ShareRange = (1.0, 1.0)
        """Share of the time axis that a target block covers; only for grids (T, H, W)."""
        min_keep: int = Field(0, ge=0)
        """Every target and every context has more tokens than this (official: 10)."""
        sizes: Literal["batch", "sample"] = "batch"
        """`batch`: one target size and one context size a batch, so that target sets are uniform and need no
        packing (official). `sample`: a size of its own for every block."""
        truncate: Literal["none", "first", "random"] = "none"
        """`none`: every visible token is kept. Else contexts, and targets, are cut to the smallest of the
        batch: to their `first` tokens in raster order (official), or to a `random` choice."""
        last_row: bool = True
        """Whether blocks reach the last row and column and may be as long as the grid (official: false)."""
        correlated: bool = False
        """Whether one number draws scale and aspect, so that large targets are tall (official: true)."""
        rounding: Rounding = "area"
        """`area`: sides are rounded so that the area comes out right, which matters on small grids.
        `sides`: the area is rounded down, then each side by itself (official)."""
        retry: Literal["redraw", "drop"] = "redraw"
        """For a sample with too few visible tokens. `redraw`: its blocks are placed anew, at most 20 times,
        then targets and contexts go to opposite corners. `drop`: its contexts are placed anew, and after
        every 20 failures one target more, the last first, stays visible in them (official)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.target_law = BlockSampler(
            scale=config.target_scale,
            aspect=config.target_aspect,
            time_scale=config.time_scale,
            rounding=config.rounding,
            correlated=config.correlated,
            last_row=config.last_row,
        )
        self.context_law = BlockSampler(
            scale=config.context_scale,
            aspect=(1.0, 1.0),
            rounding=config.rounding,
            last_row=config.last_row,
        )
        self._checked: set[Grid] = set()

    def check(self, grid: Grid) -> None:
        """Raises UserError naming the sizes where a block that can be drawn leaves too few tokens."""
        blocks.require_rank("multiblock", grid)
        self._require_valid(grid, self.target_law.reachable(grid), self.context_law.reachable(grid))
        self._checked.add(grid)

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """C ragged contexts and M targets for `batch_size` samples; `progress` is not used.

        Raises UserError where `check` does.
        """
        grid = tuple(grid)
        if grid not in self._checked:
            self.check(grid)
        sizes = self._draw_sizes(grid, batch_size, generator)
        starts, visible = self._place(grid, sizes, generator)
        targets = self._target_sets(grid, starts, sizes)
        contexts = tuple(IndexSet.from_mask(keep) for keep in visible.unbind(1))
        if self.config.truncate != "none":
            contexts = blocks.truncate(contexts, self.config.truncate, generator)
            targets = blocks.truncate(targets, self.config.truncate, generator)
        return MaskPlan(contexts, targets)

    def _draw_sizes(self, grid: Grid, batch_size: int, generator: Generator) -> Tensor:
        """int64 [B, M + C, R]: the sizes of the targets, then of the contexts."""
        counts = (self.config.targets, self.config.contexts)
        per_batch = self.config.sizes == "batch"
        drawn = [
            law.draw(grid, 1 if per_batch else batch_size * count, generator)
            for law, count in zip((self.target_law, self.context_law), counts, strict=True)
        ]
        shaped = [
            sizes.expand(batch_size, count, -1) if per_batch else sizes.view(batch_size, count, -1)
            for sizes, count in zip(drawn, counts, strict=True)
        ]
        return torch.cat(shaped, 1)

    def _place(self, grid: Grid, sizes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Starts int64 [B, M + C, R] and visible tokens bool [B, C, N], more than `min_keep` of them."""
        starts = blocks.place(self.target_law.places(grid, sizes), generator)
        visible = self._visible_tokens(grid, starts, sizes, self.config.targets)
        again = self._redraw if self.config.retry == "redraw" else self._drop
        again(grid, sizes, starts, visible, generator)
        return starts, visible

    def _visible_tokens(self, grid: Grid, starts: Tensor, sizes: Tensor, hidden: int) -> Tensor:
        """bool [B, C, N]: the tokens of each context that the first `hidden` targets do not cover."""
        covered = blocks.cover(grid, starts, sizes)[:, None]
        own = 1 << torch.arange(self.config.targets, starts.shape[1])[:, None]
        return (covered & (own | ((1 << hidden) - 1))) == own

    def _failures(self, visible: Tensor) -> Tensor:
        """int64 [n]: the samples with a context of `min_keep` tokens or fewer."""
        return (visible.sum(-1) <= self.config.min_keep).any(1).nonzero()[:, 0]

    def _redraw(
        self, grid: Grid, sizes: Tensor, starts: Tensor, visible: Tensor, generator: Generator
    ) -> None:
        """Places failed samples anew, in place; what is left goes to opposite corners, which is valid."""
        for _ in range(RETRIES):
            failed = self._failures(visible)
            if not failed.numel():
                return
            starts[failed] = blocks.place(self.target_law.places(grid, sizes[failed]), generator)
            visible[failed] = self._visible_tokens(grid, starts[failed], sizes[failed], self.config.targets)
        failed, targets = self._failures(visible), self.config.targets
        sizes[failed, :targets] = sizes[failed, :1]
        last = self.target_law.places(grid, sizes[failed]) - 1
        far = torch.randint(2, (len(failed), 1, len(grid)), generator=generator)
        starts[failed] = torch.cat([last[:, :targets] * far, last[:, targets:] * (1 - far)], 1)
        visible[failed] = self._visible_tokens(grid, starts[failed], sizes[failed], targets)
        assert not self._failures(visible).numel(), "check() foresees every size that can be drawn"

    def _drop(self, grid: Grid, sizes: Tensor, starts: Tensor, visible: Tensor, generator: Generator) -> None:
        """The official rule, in place: contexts anew, one target fewer taken out after every 20 failures."""
        targets = self.config.targets
        for attempt in range(1, RETRIES * targets + 1):
            failed = self._failures(visible)
            if not failed.numel():
                return
            places = self.target_law.places(grid, sizes[failed, targets:])
            starts[failed, targets:] = blocks.place(places, generator)
            hidden = targets - attempt // RETRIES
            visible[failed] = self._visible_tokens(grid, starts[failed], sizes[failed], hidden)
        assert not self._failures(visible).numel(), "check() foresees every size that can be drawn"

    def _target_sets(self, grid: Grid, starts: Tensor, sizes: Tensor) -> tuple[IndexSet, ...]:
        starts, sizes = starts[:, : self.config.targets], sizes[:, : self.config.targets]
        if self.config.sizes == "batch":
            index = blocks.tokens_of(grid, starts, sizes[0, 0])
            return tuple(IndexSet.from_dense(tokens) for tokens in index.unbind(1))
        covered = blocks.cover(grid, starts, sizes)
        return tuple(IndexSet.from_mask((covered >> j & 1).bool()) for j in range(self.config.targets))

    def _require_valid(self, grid: Grid, targets: np.ndarray, contexts: np.ndarray) -> None:
        """Raises UserError unless each target size [n, R] leaves enough of each context size [n, R]."""
        low, where = self.config.min_keep, f"masker multiblock: on {blocks.grid_text(grid)}"
        lower = " or lower min_keep" if low else ""
        needs = f"min_keep {low} needs more than {low}"
        small = targets[targets.prod(1).argmin()]
        if small.prod() <= low:
            raise UserError(
                f"{where} target_scale {list(self.config.target_scale)} gives blocks of "
                f"{blocks.size_text(small)} = {small.prod()} tokens; {needs}. Raise target_scale{lower}"
            )
        visible = self._most_visible(grid, targets, contexts)
        target, context = np.unravel_index(visible.argmin(), visible.shape)
        if visible[target, context] <= low:
            raise UserError(
                f"{where} a context block of {blocks.size_text(contexts[context])} beside a target block of "
                f"{blocks.size_text(targets[target])} keeps at most {visible[target, context]} tokens; "
                f"{needs}. Lower target_scale{',' if low else ' or'} raise context_scale{lower}"
            )

    def _most_visible(self, grid: Grid, targets: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """int64 [n targets, n contexts]: visible tokens where all targets lie on one corner, the context
        on the opposite one; the whole context block where targets may stay visible (`retry="drop"`).
        """
        volume = contexts.prod(1)[None]
        if self.config.retry == "drop":
            return np.broadcast_to(volume, (len(targets), len(contexts)))
        last = self.context_law.places(grid, torch.from_numpy(contexts)).numpy() - 1
        overlap = (targets[:, None] - last[None]).clip(min=0)
        return volume - np.minimum(overlap, contexts[None]).prod(-1)
