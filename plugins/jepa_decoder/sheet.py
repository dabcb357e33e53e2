"""The sheet of pictures: images, what was seen of them, and hidden patches decoded under each condition.

Decoded patches are pasted into the visible context for display alone; the decoder never saw it.

Axes: B images, C channels, h × w pixels, H × W tokens, N = H·W.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from jepa_core.data.eval_batches import space_evenly
from jepa_core.plots.curves import FAINT, INK
from jepa_core.plots.sheets import to_pixels, unnormalise
from jepa_core.types import Grid
from jepa_decoder.hidden import paste
from jepa_decoder.measure import Group

ROWS = 8
"""Images of a sheet, evenly spaced over the first group."""
GREY = 0.85
"""Of patches that are neither seen nor decoded."""
CELL, GAP, BETWEEN, TOP = 0.62, 0.04, 0.12, 0.42
"""Inches: the side of a cell, the space between cells and between parts, and the headings above."""

Part = tuple[str, Sequence[np.ndarray]]
"""A heading, and columns of pictures float [B, h, w, 3] under it."""


def sheet_parts(group: Group, mean: Sequence[float], std: Sequence[float]) -> list[Part]:
    """The columns of the sheet in parts, each with a heading. `mean`, `std`: of the normalised pixels."""

    def show(images: Tensor) -> np.ndarray:
        return to_pixels(unnormalise(images, mean, std))

    def composite(patches: Tensor) -> np.ndarray:
        shown = paste(group.views, patches, group.sets, group.sets.rows_of_pairs())
        return grey_out(show(shown), group.seen | group.hidden, group.sets.grid)

    decoded = group.decoded

    def samples(condition: str, count: int) -> list[np.ndarray]:
        return [composite(patches) for patches in decoded[condition].samples[:count]]

    return [
        ("image", [show(group.views)]),
        ("seen", [grey_out(show(group.views), group.seen, group.sets.grid)]),
        ("predicted:\nmean square", [composite(decoded["predicted"].mean_square)]),
        ("predicted: samples", samples("predicted", 3)),
        ("target: samples", samples("target", 2)),
        ("nothing: samples", samples("nothing", 2)),
    ]


def grey_out(pictures: np.ndarray, shown: Tensor, grid: Grid) -> np.ndarray:
    """Pictures [B, h, w, 3] with every patch grey that is not in `shown` bool [B, N]."""
    mask = shown.view(len(shown), *grid).cpu().numpy()
    for axis in (1, 2):
        mask = mask.repeat(pictures.shape[axis] // grid[axis - 1], axis)
    return np.where(mask[..., None], pictures, GREY)


def draw_sheet(group: Group, mean: Sequence[float], std: Sequence[float]) -> Figure:
    """The sheet as a figure, a row an image."""
    parts = sheet_parts(group, mean, std)
    rows = space_evenly(len(group.views), ROWS).tolist()
    columns = sum(len(pictures) for _, pictures in parts)
    tall = CELL * group.views.shape[2] / group.views.shape[3]
    width = columns * (CELL + GAP) + len(parts) * BETWEEN
    height = TOP + len(rows) * (tall + GAP)
    figure = Figure(figsize=(width, height), dpi=200)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in inches, from the top left
    axis.set_axis_off()
    left = BETWEEN / 2
    for heading, pictures in parts:
        extent = len(pictures) * (CELL + GAP) - GAP
        axis.text(left + extent / 2, TOP / 2, heading, ha="center", va="center", fontsize=7, color=INK)
        axis.plot((left, left + extent), (TOP - 0.04, TOP - 0.04), color=FAINT, linewidth=0.6)
        for column in pictures:
            for number, row in enumerate(rows):
                top = TOP + number * (tall + GAP)
                place = (left, left + CELL, top + tall, top)
                axis.imshow(column[row], extent=place, interpolation="nearest", aspect="auto")
            left += CELL + GAP
        left += BETWEEN
    axis.set(xlim=(0, width), ylim=(height, 0))
    return figure
