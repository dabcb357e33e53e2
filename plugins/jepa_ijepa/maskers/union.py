"""A masker for small grids and small budgets: the union of a few blocks is one target, at fixed counts.

What is unusual: both sets have the same number of tokens in every sample, whatever the blocks cover, so
nothing is ragged and every step costs the same. Tokens are ranked by how many blocks cover them, ties
broken at random; the least covered are visible, the most covered are predicted, all in one sequence.
Multi-block's four separate targets cost four predictor sequences; V-JEPA predicts the union as here.

Axes: B samples, N tokens of the grid.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Generator

from jepa_core.errors import UserError
from jepa_core.maskers import blocks as blocks
from jepa_core.maskers.blocks import BlockSampler, PositiveRange, ShareRange
from jepa_core.settings import MaskerSettings
from jepa_core.types import Grid, IndexSet, MaskPlan, grid_size


class Union:
    """One context and one target of fixed sizes; the target follows the union of `blocks` blocks."""

    class Config(MaskerSettings):
        context: float = Field(0.35, gt=0, lt=1)
        """Share of the tokens that are visible."""
        target: float = Field(0.4, gt=0, lt=1)
        """Share of the tokens that are predicted; what is in neither share is not used."""
        blocks: int = Field(4, ge=1, le=32)
        """Blocks whose union is to be hidden."""
        target_scale: ShareRange = (0.15, 0.25)
        """Share of the grid that each block covers; of its space, where the grid has a time axis."""
        target_aspect: PositiveRange = (0.66, 1.5)
        """Height over width of a block; unused on a grid of rank 1."""
        time_scale: ShareRange = (1.0, 1.0)
        """Share of the time axis that each block covers; only for grids (T, H, W)."""

        @model_validator(mode="after")
        def _check_shares(self) -> Union.Config:
            if self.context + self.target > 1:
                raise ValueError(f"context + target of at most 1; they are {self.context} + {self.target}")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.law = BlockSampler(
            scale=config.target_scale, aspect=config.target_aspect, time_scale=config.time_scale
        )

    def counts(self, grid: Grid) -> tuple[int, int]:
        """(visible, predicted) tokens of every sample."""
        tokens = grid_size(grid)
        return round(self.config.context * tokens), round(self.config.target * tokens)

    def check(self, grid: Grid) -> None:
        """Raises UserError where a share comes to no token, or both to more than there are."""
        blocks.require_rank("union", grid)
        visible, predicted = self.counts(grid)
        if min(visible, predicted) < 1 or visible + predicted > grid_size(grid):
            raise UserError(
                f"masker union: on {blocks.grid_text(grid)} context {self.config.context} and target "
                f"{self.config.target} come to {visible} and {predicted} tokens; expected at least 1 each "
                f"and at most {grid_size(grid)} together"
            )

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target, both uniform; one block size a batch."""
        visible, predicted = self.counts(grid)
        count = self.config.blocks
        sizes = self.law.draw(grid, 1, generator).expand(batch_size, count, -1)
        starts = blocks.place(self.law.places(grid, sizes), generator)
        covered = blocks.cover(grid, starts, sizes)
        times = (covered[..., None] >> torch.arange(count) & 1).sum(-1)
        keys = times + torch.rand(batch_size, grid_size(grid), generator=generator)
        order = keys.argsort(1)
        context, target = order[:, :visible], order[:, grid_size(grid) - predicted :]
        sets = [IndexSet.from_dense(chosen.sort(1).values) for chosen in (context, target)]
        return MaskPlan((sets[0],), (sets[1],))
