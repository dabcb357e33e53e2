"""Sheets of scenes: image, depth and objects, with count and distance under each.

Axes: S pixels a side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jepa_core.plots.sheets import COLOURS, Cell, Scale, Sheet, colour_map, draw_sheet
from jepa_core.runtime.atomic_write import atomic_path
from jepa_scenes.rendering import FAR, Rendering, render_number
from jepa_scenes.shards import Look

NEAR = 5.0
"""Depth where the colours of the maps begin; nothing is nearer to the camera."""


def preview(
    out: Path | str = "scenes.png",
    count: int = 12,
    size: int = 64,
    field_of_view: float = 43.0,
    seed: int = 0,
) -> Path:
    """Draws the first scenes of the training split as a sheet, a PNG; returns its path."""
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = scene_sheet(Look(size, field_of_view, seed), count)
    with atomic_path(path) as partial:
        draw_sheet(sheet, partial)
    return path


def scene_sheet(look: Look, count: int) -> Sheet:
    """The first scenes of a look; a column each."""
    depth = Scale("viridis_r", np.log2(NEAR), np.log2(FAR), "log₂ of the depth")
    pictures = (render_number(number, look.seed, look.size, look.field) for number in range(count))
    groups = [_cells(picture, depth) for picture in pictures]
    return Sheet("scenes", f"scenes {look.key}", groups, labels=("image", "depth", "objects"), scale=depth)


def _cells(picture: Rendering, depth: Scale) -> list[Cell]:
    objects = np.array([(235, 235, 235), *(_rgb(colour) for colour in COLOURS), *_GREYS], dtype=np.uint8)
    return [
        Cell(picture.image, f"{picture.count} objects"),
        Cell(colour_map(np.log2(picture.depth), depth), f"nearest at {picture.distance:.2f}"),
        Cell(objects[picture.ids]),
    ]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


_GREYS = ((110, 110, 110), (180, 180, 180))
"""Of the ninth and the tenth object."""
