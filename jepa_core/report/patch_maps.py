"""Features of single patches as pictures: principal components as colours, and similarity to one patch.

Axes: n images, H × W tokens of the grid, N = H·W, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from jepa_core.plots.masks import outline
from jepa_core.plots.sheets import Cell, Outline, Scale, Sheet, colour_map, to_pixels
from jepa_core.types.index_set import Grid

MARK = "#D55E00"


def pca_sheet(images: Tensor, features: Tensor, grid: Grid) -> Sheet:
    """The first three principal components of all patches as red, green and blue.

    `images` [n, C, h, w] from 0 to 1, `features` [n, N, D] (the maps of DINOv2, arXiv 2304.07193, fig. 1,
    without its foreground threshold).
    """
    maps = rearrange(pca_colours(features), "n (h w) c -> n h w c", h=grid[0])
    groups = [[Cell(image), Cell(colours)] for image, colours in zip(to_uint8(images), maps, strict=True)]
    title = f"First three principal components of the patch features, {grid[0]}×{grid[1]} patches"
    return Sheet("pca", title, groups, labels=["image", "features"])


def pca_colours(features: Tensor) -> np.ndarray:
    """uint8 [n, N, 3]: each component from its 2nd to its 98th percentile over all patches.

    The sign of a component is arbitrary; here its largest weight is positive, so that the same features give
    the same picture. Where there are fewer than three components the others are 0.
    """
    flat = rearrange(features.double(), "n p d -> (n p) d")
    centred = flat - flat.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    scores = F.pad(centred @ axes.T, (0, 3 - len(axes)))
    low, high = scores.quantile(0.02, dim=0), scores.quantile(0.98, dim=0)
    share = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    colours = (share * 255).round().to(torch.uint8)
    return rearrange(colours, "(n p) c -> n p c", n=len(features)).numpy()


def similarity_sheet(images: Tensor, features: Tensor, grid: Grid) -> Sheet:
    """For a few patches of each image, the cosine similarity of every patch's feature with the marked one's.

    `images` [n, C, h, w] from 0 to 1, `features` [n, N, D]."""
    similarity = patch_similarity(features)
    low = float(similarity.quantile(0.02)) if similarity.numel() < 1e6 else float(similarity.min())
    scale = Scale("cividis", min(low, 0.99), 1.0, "cosine similarity with the marked patch")
    groups = []
    for image, maps in zip(to_uint8(images), similarity, strict=True):
        cells = [Cell(image)]
        for place in marked_patches(grid):
            values = maps[place[0] * grid[1] + place[1]].view(grid).numpy()
            cells.append(Cell(colour_map(values, scale), outlines=[frame(grid, place)]))
        groups.append(cells)
    names = ["image", *["similarity"] * len(marked_patches(grid))]
    return Sheet("similarity", "Similarity of all patches with one", groups, labels=names, scale=scale)


def patch_similarity(features: Tensor) -> Tensor:
    """float [n, N, N]: cosine of every patch's feature with every other of the same image."""
    unit = F.normalize(features, dim=2)
    return unit @ unit.transpose(1, 2)


def marked_patches(grid: Grid) -> Sequence[tuple[int, int]]:
    """(row, column) of the patches that others are compared with: upper left, middle, lower right, an eighth
    of a side from the border."""
    height, width = grid
    rows, columns = (sorted({side // 8, side // 2, side - 1 - side // 8}) for side in (height, width))
    count = max(len(rows), len(columns))
    return [(rows[min(i, len(rows) - 1)], columns[min(i, len(columns) - 1)]) for i in range(count)]


def frame(grid: Grid, place: tuple[int, int]) -> Outline:
    """A frame around one patch, in cells of the grid."""
    marked = np.zeros(grid, bool)
    marked[place] = True
    return Outline(outline(marked, 0.04), MARK)


def to_uint8(images: Tensor) -> np.ndarray:
    """uint8 [n, h, w, 3] of images [n, C, h, w] from 0 to 1."""
    return (to_pixels(images) * 255).round().astype(np.uint8)
