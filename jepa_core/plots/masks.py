"""Masks over real images: the visible patches of each context, and the target blocks.

Axes: B images, H × W tokens of the grid, N = H·W, h × w pixels of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.plots.sheets import (
    COLOURS,
    Cell,
    Edge,
    Outline,
    Sheet,
    draw_sheet,
    to_bytes,
    to_pixels,
)
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.mask_plan import MaskPlan


def draw_masks(images: Tensor, plan: MaskPlan, grid: Grid, path: Path | str, max_images: int = 8) -> None:
    """Writes `mask_sheet` as a PNG."""
    draw_sheet(mask_sheet(images, plan, grid, max_images), path)


def mask_sheet(images: Tensor, plan: MaskPlan, grid: Grid, max_images: int = 8) -> Sheet:
    """The first `max_images` images, each plain, with each context's visible patches, and with the targets.

    `images` [B, C, H, W] with C 1 or 3, float 0 … 1 or uint8; `grid` is the (H, W) token grid of `plan`.
    Raises UserError where the grid does not divide the images, the images are normalised, or images and
    plan are of different batch sizes.
    """
    _check(images, plan, grid)
    groups = []
    for b, image in enumerate(to_pixels(images[:max_images])):
        contexts = [_context_cell(image, _keep(context, b, grid)) for context in plan.contexts]
        targets = [_keep(target, b, grid) for target in plan.targets]
        groups.append([Cell(to_bytes(image)), *contexts, _target_cell(image, targets)])
    names = [f"context {i + 1}" if len(plan.contexts) > 1 else "context" for i in range(len(plan.contexts))]
    return Sheet(
        "masks",
        f"What is visible and what is to be predicted: {grid[0]}×{grid[1]} patches",
        groups,
        labels=["image", *names, "targets"],
        legend=[
            (f"target {j + 1}", COLOURS[j % len(COLOURS)])
            for j in range(len(plan.targets))
            if len(plan.targets) > 1
        ],
    )


def _check(images: Tensor, plan: MaskPlan, grid: Grid) -> None:
    if len(grid) != 2:
        raise UserError(f"masks are drawn on grids (H, W); got {grid}")
    if images.dtype != torch.uint8 and (images.min() < 0 or images.max() > 1):
        raise UserError(
            f"images to draw are uint8, or float from 0 to 1; got {images.min():.2f} … {images.max():.2f}. "
            "unnormalise(images, mean, std) brings normalised ones back"
        )
    if images.shape[2] % grid[0] or images.shape[3] % grid[1]:
        raise UserError(f"a grid {grid} does not divide images of {images.shape[2]}×{images.shape[3]} pixels")
    if plan.empty or plan.batch_size != len(images):
        raise UserError(f"a plan for {len(images)} images is needed; got one for {plan.batch_size}")


def _keep(tokens: IndexSet, sample: int, grid: Grid) -> np.ndarray:
    """bool [H, W]: the tokens of one sample."""
    return tokens.mask(math.prod(grid))[sample].view(grid).cpu().numpy()


def _spread(keep: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """bool [H, W] of tokens as bool [h, w] of pixels."""
    height, width = pixels.shape[0] // keep.shape[0], pixels.shape[1] // keep.shape[1]
    return keep.repeat(height, 0).repeat(width, 1)


def _context_cell(pixels: np.ndarray, keep: np.ndarray) -> Cell:
    """The image with its hidden patches nearly grey."""
    visible = _spread(keep, pixels)[..., None]
    drawn = np.where(visible, pixels, 0.55 + 0.12 * (pixels - 0.5))
    return Cell(to_bytes(drawn), f"{keep.sum()} of {keep.size} seen")


def _target_cell(pixels: np.ndarray, targets: Sequence[np.ndarray]) -> Cell:
    """The image with the patches faded that are in no target, and an outline for each target.

    Outlines of later targets are drawn further inside, so that those of equal blocks stay apart.
    """
    union = np.logical_or.reduce(targets) if targets else np.ones((1, 1), bool)
    drawn = np.where(_spread(union, pixels)[..., None], pixels, 0.5 + 0.5 * pixels)
    outlines = []
    for j, keep in enumerate(targets):
        cell = pixels.shape[0] / keep.shape[0], pixels.shape[1] / keep.shape[1]
        inset = 0.04 + 0.055 * (j % len(COLOURS))
        edges = [
            ((a * cell[1], b * cell[0]), (c * cell[1], d * cell[0]))
            for (a, b), (c, d) in outline(keep, inset)
        ]
        outlines.append(Outline(edges, COLOURS[j % len(COLOURS)]))
    sizes = [int(keep.sum()) for keep in targets] or [0]
    span = str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)}–{max(sizes)}"
    return Cell(to_bytes(drawn), f"{span} {'each' if len(sizes) > 1 else 'hidden'}", outlines)


def outline(keep: np.ndarray, inset: float = 0.0) -> list[Edge]:
    """Edges ((x, y), (x, y)), in cells, between the true and the false cells of bool [H, W].

    `inset` moves each edge into its true cell by that share of a cell.
    """
    padded = np.pad(keep, 1)
    edges: list[Edge] = []
    for y, x in np.argwhere(keep):
        above, below = padded[y, x + 1], padded[y + 2, x + 1]
        left, right = padded[y + 1, x], padded[y + 1, x + 2]
        x0, x1 = x + (0 if left else inset), x + 1 - (0 if right else inset)
        y0, y1 = y + (0 if above else inset), y + 1 - (0 if below else inset)
        sides = {((x0, y0), (x1, y0)): above, ((x0, y1), (x1, y1)): below}
        sides |= {((x0, y0), (x0, y1)): left, ((x1, y0), (x1, y1)): right}
        edges += [edge for edge, inner in sides.items() if not inner]
    return edges
