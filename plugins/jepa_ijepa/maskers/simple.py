"""The maskers that Table 6 of I-JEPA (2301.08243) compares with multi-block: `block`, `random`, `rasterised`.

In all three, context and targets together are the whole grid. The paper gives them for images; what
they do on sequences and clips is our extension. With 1 % of ImageNet's labels it reports 54.2 for
multi-block, 20.2 for block, 17.6 for random and 15.5 for rasterised (ViT-B/16, 300 epochs).

Axes: B samples, N tokens of the grid, K tokens of a target.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.maskers import blocks as blocks
from jepa_core.maskers.blocks import BlockSampler, PositiveRange, ShareRange
from jepa_core.settings import MaskerSettings
from jepa_core.types import Grid, IndexSet, MaskPlan, grid_size


class Block:
    """One target block a sample; the context is everything else.

    From the paper: one block of scale .6, context its complement. Ours: the aspect range (multi-block's),
    a uniform place with every row and column in reach, one size a batch (so that both sets are uniform).
    """

    class Config(MaskerSettings):
        scale: ShareRange = (0.6, 0.6)
        """Share of the grid that the target block covers; of its space, where the grid has a time axis."""
        aspect: PositiveRange = (0.75, 1.5)
        """Height over width of the block; unused on a grid of rank 1."""
        time_scale: ShareRange = (1.0, 1.0)
        """Share of the time axis that the block covers; only for grids (T, H, W)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.law = BlockSampler(scale=config.scale, aspect=config.aspect, time_scale=config.time_scale)
        self._checked: set[Grid] = set()

    def check(self, grid: Grid) -> None:
        """Raises UserError where the block can be as large as the grid."""
        blocks.require_rank("block", grid)
        if self.law.reachable(grid).prod(1).max() == grid_size(grid):
            raise UserError(
                f"masker block: on {blocks.grid_text(grid)} scale {list(self.config.scale)} gives a block of "
                f"{blocks.size_text(grid)}, the whole grid; the context needs at least 1 token. Lower scale"
            )
        self._checked.add(grid)

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target, both uniform. Raises UserError where `check` does."""
        grid = tuple(grid)
        if grid not in self._checked:
            self.check(grid)
        size = self.law.draw(grid, 1, generator)
        starts = blocks.place(self.law.places(grid, size).expand(batch_size, -1), generator)
        context, target = blocks.split(blocks.tokens_of(grid, starts, size[0]), grid_size(grid))
        return MaskPlan((context,), (target,))


class Random:
    """A random choice of tokens is the target; the context is everything else.

    From the paper: a share of .6, as one set. The official random collator draws the share between .4
    and .6, once a batch: `ratio = [.4, .6]`. Ours: ascending indices.
    """

    class Config(MaskerSettings):
        ratio: ShareRange = (0.6, 0.6)
        """Share of the tokens that are to be predicted, drawn once a batch (official: [.4, .6])."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError for a grid of one token, which cannot be split."""
        blocks.require_rank("random", grid)
        if grid_size(grid) < 2:
            raise UserError(
                f"masker random: on {blocks.grid_text(grid)} nothing can be both seen and predicted; "
                "expected at least 2 tokens"
            )

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target, both uniform and of at least one token."""
        self.check(grid)
        low, high = self.config.ratio
        ratio = low + (high - low) * torch.rand((), generator=generator).item()
        tokens = grid_size(grid)
        hidden = min(max(round(ratio * tokens), 1), tokens - 1)
        keys = torch.rand(batch_size, tokens, generator=generator)
        context, target = blocks.split(keys.topk(hidden, sorted=False).indices, tokens)
        return MaskPlan((context,), (target,))


class Rasterised:
    """One quadrant is visible, the other three are targets, each a set of its own, in raster order.

    From the paper: four quadrants, one as context, three as targets. Ours: which one is visible is
    uniform, for each sample; an odd side is cut below its middle, which makes the sets ragged; in a clip
    a quadrant spans all times; a sequence has two halves, so one target.
    """

    class Config(MaskerSettings):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError where an axis of space is too short to be cut in two."""
        blocks.require_rank("rasterised", grid)
        if min(grid[-2:]) < 2:
            raise UserError(
                f"masker rasterised: {blocks.grid_text(grid)} cannot be cut into quadrants; "
                "expected at least 2 tokens along each axis of space"
            )

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and three targets (one on a grid of rank 1)."""
        self.check(grid)
        part = _quadrant(grid)
        parts = 2 ** min(len(grid), 2)
        seen = torch.randint(parts, (batch_size, 1), generator=generator)
        others = torch.arange(parts - 1).expand(batch_size, -1)
        others = others + (others >= seen)
        context, *targets = (
            IndexSet.from_mask(part == which) for which in torch.cat([seen, others], 1).T[..., None]
        )
        return MaskPlan((context,), tuple(targets))


def _quadrant(grid: Grid) -> Tensor:
    """int64 [N]: the quadrant (half, on a grid of rank 1) of each token, in raster order."""
    part = torch.zeros(1, dtype=torch.long)
    for axis, side in enumerate(grid):
        if axis < len(grid) - 2:
            part = part.repeat(side)
            continue
        half = (torch.arange(side) >= side // 2).long()
        part = (2 * part[:, None] + half).flatten()
    return part
