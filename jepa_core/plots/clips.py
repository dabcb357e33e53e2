"""Clips as pictures: each time step of a token grid (T, H, W) becomes an image on the grid (H, W).

Axes: B clips, T time steps of the grid, F frames of a clip, N = T·H·W tokens, D width.
"""

from __future__ import annotations

from dataclasses import replace

from einops import rearrange
from torch import Tensor

from jepa_core.plots.masks import mask_sheet
from jepa_core.plots.sheets import Sheet
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.mask_plan import MaskPlan


def middle_frames(views: Tensor, steps: int) -> Tensor:
    """Images [B·T, C, h, w] of clips [B, C, F, h, w]: of the F/T frames of each of T steps the middle one."""
    frames = views.shape[2] // steps
    return rearrange(views[:, :, frames // 2 :: frames][:, :, :steps], "b c t h w -> (b t) c h w")


def by_step(features: Tensor, grid: Grid) -> Tensor:
    """Features [B, N, D] on (T, H, W) as [B·T, H·W, D]."""
    return rearrange(features, "b (t p) d -> (b t) p d", t=grid[0])


def plan_by_step(plan: MaskPlan, grid: Grid) -> MaskPlan:
    """The plan for B clips on (T, H, W) as one for B·T images on (H, W)."""

    def split(tokens: IndexSet) -> IndexSet:
        return IndexSet.from_mask(rearrange(tokens.mask(grid_size(grid)), "b (t p) -> (b t) p", t=grid[0]))

    return MaskPlan(tuple(map(split, plan.contexts)), tuple(map(split, plan.targets)), plan.pairs)


def masks_over(views: Tensor, plan: MaskPlan, grid: Grid, columns: int) -> Sheet:
    """`masks.mask_sheet` of images [B, C, h, w] or clips [B, C, F, h, w], values 0 to 1.

    A column is an image or a time step of a clip; there are at most `columns`, but at least one clip.
    """
    if len(grid) == 2:
        return mask_sheet(views, plan, grid, columns)
    clips = max(1, columns // grid[0])
    sheet = mask_sheet(middle_frames(views, grid[0]), plan_by_step(plan, grid), grid[1:], clips * grid[0])
    size = "×".join(map(str, grid))
    title = f"What is visible and what is to be predicted: {size} tokens, time to the right"
    return replace(sheet, title=title)
