"""A masker: the fields of one colour are visible, those of the other are to be predicted.

Axes: B samples, N tokens of the grid.
"""

from __future__ import annotations

import torch
from torch import Generator

from jepa_core import ComponentSettings, Grid, IndexSet, MaskPlan, UserError


class Checkerboard:
    """Every second token, on a grid of any rank; which colour is visible is drawn for each sample."""

    class Config(ComponentSettings):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError for a grid of one token."""
        if max(grid) < 2:
            raise UserError(f"masker checkerboard: the grid {grid} has fields of one colour only")

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target; on a grid of odd size they differ by one token."""
        places = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        colour = torch.stack(places).sum(0).flatten() % 2
        visible = torch.randint(2, (batch_size, 1), generator=generator)
        return MaskPlan((IndexSet.from_mask(colour == visible),), (IndexSet.from_mask(colour != visible),))
