"""Sheets of small images with captions, and their drawing as a PNG.

What is unusual: a `Sheet` is data, drawn as a PNG here and as HTML by the report, so that both show the
same. Figures use no pyplot, so they need no display and change no global state. Colours can be told apart
by colour-blind readers and in print (Okabe & Ito 2008).

Axes: B images, h × w pixels of a cell.
"""

from __future__ import annotations

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
    """One small image: uint8 [h, w, 3], with a caption below and lines over it."""

    pixels: np.ndarray
    caption: str = ""
    outlines: Sequence[Outline] = ()
    strong: bool = False
    """Drawn with a frame, as a query beside its neighbours."""


@dataclass(frozen=True)
class Scale:
    """The scale of a colour map: matplotlib's of this name, from `low` to `high`."""

    colours: str
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Sheet:
    """Groups of cells. `flow`: whether a group is drawn as a column (`down`) or as a row (`across`)."""

    name: str
    """Name of its PNG file, without suffix."""
    title: str
    groups: Sequence[Sequence[Cell]]
    flow: Literal["down", "across"] = "down"
    labels: Sequence[str] = ()
    """Titles of a group's cells, in order."""
    legend: Sequence[tuple[str, str]] = ()
    """(label, colour) of the outlines."""
    scale: Scale | None = None


CELL, GAP, LINE = 1.2, 0.1, 0.18
"""Inches: the width of a cell, the space between two, a line of text."""


def draw_sheet(sheet: Sheet, path: Path | str) -> None:
    """Writes a sheet as a PNG."""
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
    """Draws a cell with its upper left corner at (x, y) inches."""
    height, width = cell.pixels.shape[:2]
    size = CELL / width  # of a pixel
    below = y + height * size
    axis.imshow(cell.pixels, extent=(x, x + CELL, below, y), interpolation="nearest", aspect="auto")
    axis.text(x + CELL / 2, below + 0.03, cell.caption, ha="center", va="top")
    if cell.strong:
        axis.add_patch(Rectangle((x, y), CELL, height * size, fill=False, linewidth=1.6))
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
    """The inverse of `(x - mean) / std` for images [B, C, H, W] or clips [B, C, T, H, W], in 0 … 1."""
    shape = (1, -1, *[1] * (images.dim() - 2))
    return (images * images.new_tensor(std).view(shape) + images.new_tensor(mean).view(shape)).clamp(0, 1)


def to_pixels(images: Tensor) -> np.ndarray:
    """float [B, h, w, 3] in 0 … 1 of images [B, C, h, w], C 1 or 3, uint8 or float 0 … 1."""
    images = images.detach().cpu()
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """float 0 … 1 as uint8, rounded."""
    return (pixels * 255).round().astype(np.uint8)
