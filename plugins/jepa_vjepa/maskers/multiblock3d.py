"""V-JEPA's masker: for each pair, some blocks are to be predicted and all the rest is visible.

What is unusual: it is exact. The released code cuts both sets of a pair to the smallest of the batch, first
tokens first, and the first tokens are the earliest: of what a pair of two long blocks shows (14x14x8 tokens,
24 clips) all of the first time step is kept, a quarter of the fourth, and 4 % of the last. Here sets stay
ragged, and that cut is a setting, for replication: `truncate = "first"` with `rounding = "sides"`.

Axes: B samples, M blocks of a pair, R rank of the grid, N tokens of the grid.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.maskers import blocks as blocks
from jepa_core.maskers.blocks import BlockSampler, PositiveRange, Rounding, ShareRange
from jepa_core.settings import MaskerSettings, Settings
from jepa_core.types import Grid, IndexSet, MaskPlan, grid_size

RETRIES = 20


class BlockPair(Settings):
    """A context and a target: the union of some blocks of one size is the target, the rest the context."""

    blocks: int = Field(8, ge=1, le=62)
    """Blocks of a sample, M."""
    scale: ShareRange = (0.15, 0.15)
    """Share of the grid's space that a block covers."""
    aspect: PositiveRange = (0.75, 1.5)
    """Height over width of a block; unused on a grid of rank 1."""
    time_scale: ShareRange = (1.0, 1.0)
    """Share of the time axis that a block covers; only for grids (T, H, W)."""


class Multiblock3d:
    """Pairs of sets, each pair's blocks of a size of their own that the batch shares.

    A plan has a context and a target for each pair, paired with each other, ragged and ascending; together
    they are the whole grid. Source: V-JEPA (arXiv 2404.08471), section 3.2.
    """

    class Config(MaskerSettings):
        pairs: dict[str, BlockPair] = Field(
            {"short": BlockPair(), "long": BlockPair(blocks=2, scale=(0.7, 0.7))}, min_length=1
        )
        """The pairs by name, a table each, with blocks, scale, aspect and time_scale. By default V-JEPA's:
        `short`, 8 blocks of 15 %, and `long`, 2 blocks of 70 %, all through time."""
        truncate: Literal["none", "first", "random"] = "none"
        """`none`: every token is kept. Else contexts, and targets, are cut to the smallest of the batch: to
        their `first` tokens, which are the earliest (official), or to a `random` choice."""
        rounding: Rounding = "area"
        """`area`: sides are rounded so that the area comes out right, which matters on small grids.
        `sides`: the area is rounded down, then each side by itself, the length in time down (official)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.samplers = {name: self._sampler(pair) for name, pair in config.pairs.items()}
        self._checked: set[Grid] = set()

    def check(self, grid: Grid) -> None:
        """Raises UserError where a block can be as large as the grid."""
        blocks.require_rank("multiblock3d", grid)
        for name, sampler in self.samplers.items():
            if sampler.reachable(grid).prod(1).max() == grid_size(grid):
                raise UserError(
                    f"masker multiblock3d: on {blocks.grid_text(grid)} a block of the pair {name!r} can be "
                    f"the whole grid, and nothing is left to see; lower pairs.{name}.scale or time_scale"
                )
        self._checked.add(grid)

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """A context and a target for each pair; `progress` is not used.

        Raises UserError where `check` does.
        """
        grid = tuple(grid)
        if grid not in self._checked:
            self.check(grid)
        sets = [self._sets(name, grid, batch_size, generator) for name in self.samplers]
        contexts, targets = zip(*sets, strict=True)
        return MaskPlan(contexts, targets, tuple((pair, pair) for pair in range(len(sets))))

    def _sets(
        self, name: str, grid: Grid, batch_size: int, generator: Generator
    ) -> tuple[IndexSet, IndexSet]:
        hidden = self._draw_hidden(name, grid, batch_size, generator)
        sets = IndexSet.from_mask(~hidden), IndexSet.from_mask(hidden)
        if self.config.truncate == "none":
            return sets
        context, target = (blocks.truncate([tokens], self.config.truncate, generator)[0] for tokens in sets)
        return context, target

    def _draw_hidden(self, name: str, grid: Grid, batch_size: int, generator: Generator) -> Tensor:
        """bool [B, N]: the union of a pair's blocks, never the whole grid.

        Where it is, a sample's blocks are placed anew; after 20 failures all lie on the first.
        """
        sampler, count = self.samplers[name], self.config.pairs[name].blocks
        sizes = sampler.draw(grid, 1, generator).expand(batch_size, count, -1)
        places = sampler.places(grid, sizes)
        starts = blocks.place(places, generator)
        hidden = blocks.cover(grid, starts, sizes) != 0
        for attempt in range(1, RETRIES + 2):
            failed = hidden.all(1).nonzero()[:, 0]
            if not failed.numel():
                break
            starts[failed] = (
                blocks.place(places[failed], generator)
                if attempt <= RETRIES
                else starts[failed, :1].expand(-1, count, -1)
            )
            hidden[failed] = blocks.cover(grid, starts[failed], sizes[failed]) != 0
        return hidden

    def _sampler(self, pair: BlockPair) -> BlockSampler:
        return BlockSampler(
            scale=pair.scale,
            aspect=pair.aspect,
            time_scale=pair.time_scale,
            rounding=self.config.rounding,
        )
