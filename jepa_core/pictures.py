"""Pictures for people, as sheets of small captioned images; among them masks drawn over real images.

What is unusual: a `Sheet` is data, drawn as a PNG here and as HTML by the report, so that both show the
same. Figures are made on a canvas of their own (no pyplot, no window, no global state), so they work
without a display and beside a notebook. Colours are told apart by colour-blind eyes and in print (Okabe
& Ito 2008).

Axes: B images, H × W tokens of the grid, N = H·W, h × w pixels of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types import Grid, IndexSet, MaskPlan

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 160}

Edge = tuple[tuple[float, float], tuple[float, float]]
"""A line from (x, y) to (x, y)."""


@dataclass(frozen=True)
class Outline:
    """Lines over a cell, in its pixels."""

    edges: Sequence[Edge]
    colour: str


@dataclass(frozen=True, eq=False)
class Cell:
    """One small image: uint8 [h, w, 3], what stands below it, and lines over it."""

    pixels: np.ndarray
    caption: str = ""
    outlines: Sequence[Outline] = ()
    strong: bool = False
    """Set apart from the others, as a query is from its answers."""


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean: a matplotlib colour map from `low` to `high`."""

    colours: str
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Sheet:
    """Groups of cells. `flow` says whether a group stands as a column or as a row."""

    name: str
    """Of the file, without suffix."""
    title: str
    groups: Sequence[Sequence[Cell]]
    flow: Literal["down", "across"] = "down"
    labels: Sequence[str] = ()
    """What the cells of a group are, in order."""
    legend: Sequence[tuple[str, str]] = ()
    """(label, colour) of the outlines."""
    scale: Scale | None = None


CELL, GAP, LINE = 1.2, 0.1, 0.18
"""Inches: the width of a cell, the space between two, a line of text."""


def draw_sheet(sheet: Sheet, path: Path | str) -> None:
    """A sheet as a PNG."""
    longest, count = max(map(len, sheet.groups)), len(sheet.groups)
    rows, columns = (longest, count) if sheet.flow == "down" else (count, longest)
    tallest = max(cell.pixels.shape[0] / cell.pixels.shape[1] for group in sheet.groups for cell in group)
    step = CELL + GAP, CELL * tallest + LINE + GAP
    left, top = 2 * LINE if sheet.flow == "down" else GAP, (2 if sheet.flow == "down" else 3) * LINE
    width = left + columns * step[0] + (4 * LINE if sheet.scale else 0)
    height = top + rows * step[1] + (2 * LINE if sheet.legend else 0)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        axis = figure.add_axes(
            (0, 0, 1, 1), xlim=(0, width), ylim=(height, 0)
        )  # in inches, from the top left
        axis.set_axis_off()
        axis.text(width / 2, LINE, sheet.title, ha="center", va="center", fontsize=10)
        for g, group in enumerate(sheet.groups):
            for i, cell in enumerate(group):
                column, row = (g, i) if sheet.flow == "down" else (i, g)
                _draw_cell(axis, cell, left + column * step[0], top + row * step[1])
        _draw_labels(axis, sheet, (left, top), step)
        _draw_keys(figure, axis, sheet, (width, height))
        figure.savefig(path, format="png")


def _draw_cell(axis: Axes, cell: Cell, x: float, y: float) -> None:
    """A cell whose upper left corner stands at (x, y) inches."""
    high, wide = cell.pixels.shape[:2]
    size = CELL / wide  # of a pixel
    below = y + high * size
    axis.imshow(cell.pixels, extent=(x, x + CELL, below, y), interpolation="nearest", aspect="auto")
    axis.text(x + CELL / 2, below + 0.03, cell.caption, ha="center", va="top")
    if cell.strong:
        axis.add_patch(Rectangle((x, y), CELL, high * size, fill=False, linewidth=1.6))
    for outline in cell.outlines:
        edges = [
            ((x + a * size, y + b * size), (x + c * size, y + d * size)) for (a, b), (c, d) in outline.edges
        ]
        axis.add_collection(
            LineCollection(edges, colors=outline.colour, linewidths=1.6, capstyle="projecting")
        )


def _draw_labels(axis: Axes, sheet: Sheet, start: tuple[float, float], step: tuple[float, float]) -> None:
    for i, label in enumerate(sheet.labels):
        if sheet.flow == "down":
            y = start[1] + i * step[1] + (step[1] - LINE - GAP) / 2
            axis.text(start[0] - LINE, y, label, rotation=90, ha="center", va="center", fontsize=10)
        else:
            axis.text(start[0] + i * step[0] + CELL / 2, start[1] - LINE / 2, label, ha="center", va="center")


def _draw_keys(figure: Figure, axis: Axes, sheet: Sheet, size: tuple[float, float]) -> None:
    handles = [Patch(fill=False, edgecolor=c, linewidth=1.6, label=label) for label, c in sheet.legend]
    if handles:
        axis.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), frameon=False)
    if sheet.scale:
        colours = ScalarMappable(Normalize(sheet.scale.low, sheet.scale.high), sheet.scale.colours)
        place = figure.add_axes((1 - 3.6 * LINE / size[0], 0.2, 0.4 * LINE / size[0], 0.6))
        figure.colorbar(colours, cax=place, label=sheet.scale.label)


def colour_map(values: np.ndarray, scale: Scale) -> np.ndarray:
    """float [...] as uint8 [..., 3] colours of the scale."""
    share = (values - scale.low) / max(scale.high - scale.low, 1e-9)
    return (colormaps[scale.colours](share)[..., :3] * 255).round().astype(np.uint8)


def unnormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images [B, C, H, W], or clips [B, C, T, H, W], back from `(x - mean) / std` to values 0 … 1."""
    shape = (1, -1, *[1] * (images.dim() - 2))
    return (images * images.new_tensor(std).view(shape) + images.new_tensor(mean).view(shape)).clamp(0, 1)


def draw_masks(images: Tensor, plan: MaskPlan, grid: Grid, path: Path | str, most: int = 8) -> None:
    """`mask_sheet` as a PNG."""
    draw_sheet(mask_sheet(images, plan, grid, most), path)


def mask_sheet(images: Tensor, plan: MaskPlan, grid: Grid, most: int = 8) -> Sheet:
    """The first `most` images: as they are, what each context sees, and the target blocks.

    `images` [B, C, H, W] with C 1 or 3, float 0 … 1 or uint8; `grid` is the (H, W) token grid of `plan`.
    Raises UserError where the grid does not divide the images, the images are normalised, or images and
    plan speak of different batch sizes.
    """
    _check(images, plan, grid)
    groups = []
    for b, image in enumerate(to_pixels(images[:most])):
        contexts = [_context_cell(image, _keep(context, b, grid)) for context in plan.contexts]
        targets = [_keep(target, b, grid) for target in plan.targets]
        groups.append([Cell(_bytes(image)), *contexts, _target_cell(image, targets)])
    several, several_targets = len(plan.contexts) > 1, len(plan.targets) > 1
    names = [f"context {i + 1}" if several else "context" for i in range(len(plan.contexts))]
    return Sheet(
        "masks",
        f"What is visible and what is to be predicted: {grid[0]}×{grid[1]} patches",
        groups,
        labels=["image", *names, "targets"],
        legend=[
            (f"target {j + 1}", COLOURS[j % len(COLOURS)])
            for j in range(len(plan.targets))
            if several_targets
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


def to_pixels(images: Tensor) -> np.ndarray:
    """float [B, h, w, 3] in 0 … 1 of images [B, C, h, w], C 1 or 3, uint8 or float 0 … 1."""
    images = images.detach().cpu()
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 255).round().astype(np.uint8)


def _keep(tokens: IndexSet, sample: int, grid: Grid) -> np.ndarray:
    """bool [H, W]: the tokens of one sample."""
    return tokens.mask(math.prod(grid))[sample].view(grid).cpu().numpy()


def _spread(keep: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """bool [H, W] on tokens to bool on pixels."""
    height, width = pixels.shape[0] // keep.shape[0], pixels.shape[1] // keep.shape[1]
    return keep.repeat(height, 0).repeat(width, 1)


def _context_cell(pixels: np.ndarray, keep: np.ndarray) -> Cell:
    """Hidden patches go to a flat grey with a trace of the image; visible ones stay as they are."""
    seen = _spread(keep, pixels)[..., None]
    shown = np.where(seen, pixels, 0.55 + 0.12 * (pixels - 0.5))
    return Cell(_bytes(shown), f"{keep.sum()} of {keep.size} seen")


def _target_cell(pixels: np.ndarray, targets: Sequence[np.ndarray]) -> Cell:
    """What nobody predicts is faded; every block has an outline, its neighbours' drawn further inside."""
    union = np.logical_or.reduce(targets) if targets else np.ones((1, 1), bool)
    shown = np.where(_spread(union, pixels)[..., None], pixels, 0.5 + 0.5 * pixels)
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
    return Cell(_bytes(shown), f"{span} {'each' if len(sizes) > 1 else 'hidden'}", outlines)


def outline(keep: np.ndarray, inset: float = 0.0) -> list[Edge]:
    """Edges ((x, y), (x, y)), in cells, between the kept and the other cells of bool [H, W].

    `inset` moves each edge into its kept cell by that share of a cell, so that equal blocks stay apart.
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
