"""Maskers that treat time by itself: `tube` hides the same places at all times, `causal` what comes later.

Axes: B samples, T times, K places of a time step that are hidden.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Generator

from jepa_core.errors import UserError
from jepa_core.maskers import blocks as blocks
from jepa_core.maskers.blocks import ShareRange
from jepa_core.settings import MaskerSettings
from jepa_core.types import Grid, IndexSet, MaskPlan, grid_size


class Tube:
    """A random choice of places is hidden at all times; the rest is the context.

    Both sets are uniform. Source: V-JEPA's released code (spatial ratio .9); VideoMAE (arXiv 2203.12602).
    """

    class Config(MaskerSettings):
        ratio: float = Field(0.9, gt=0, lt=1)
        """Share of the places that is hidden; at least one is, and one is not."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError for a grid without time, and for one with a single place."""
        _require_clip("tube", grid)
        if grid[1] * grid[2] < 2:
            raise UserError(
                f"masker tube: on {blocks.grid_text(grid)} no place can be hidden and another seen; "
                "expected at least 2 places in space"
            )

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target, paired. Raises UserError where `check` does."""
        self.check(grid)
        times, places = grid[0], grid[1] * grid[2]
        hidden = min(max(round(self.config.ratio * places), 1), places - 1)
        chosen = torch.rand(batch_size, places, generator=generator).argsort(1)[:, :hidden]
        through_time = chosen[:, None] + places * torch.arange(times)[:, None]
        context, target = blocks.split(through_time.flatten(1), grid_size(grid))
        return MaskPlan((context,), (target,))


class Causal:
    """The first times are visible, the others are to be predicted; every sample alike.

    Ours, after V-JEPA 2's frame-causal predictors: a way to ask for the future only.
    """

    class Config(MaskerSettings):
        context: ShareRange = (0.5, 0.5)
        """Share of the times that is visible, drawn once a batch; at least one is, and one is not."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError for a grid without time, and for one with a single time."""
        _require_clip("causal", grid)
        if grid[0] < 2:
            raise UserError(
                f"masker causal: on {blocks.grid_text(grid)} nothing comes later; expected at least 2 times"
            )

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target, paired. Raises UserError where `check` does."""
        self.check(grid)
        low, high = self.config.context
        share = low + (high - low) * torch.rand((), generator=generator).item()
        seen = min(max(round(share * grid[0]), 1), grid[0] - 1) * grid[1] * grid[2]
        tokens = torch.arange(grid_size(grid)).expand(batch_size, -1)
        return MaskPlan((IndexSet.from_dense(tokens[:, :seen]),), (IndexSet.from_dense(tokens[:, seen:]),))


def _require_clip(masker: str, grid: Grid) -> None:
    """Raises UserError for a grid that is not (T, H, W)."""
    if len(grid) != 3 or min(grid) < 1:
        raise UserError(f"masker {masker}: got a token grid {grid}; expected (T, H, W), each side at least 1")
