"""A scene as a picture, with exact depth and the object of every pixel.

What is unusual: one ray goes through the middle of each pixel, which gives depth and object; only where
object, normal or brightness change from a pixel to its neighbour are 4 × 4 more sent, and averaged in linear
light.

Axes: S pixels a side, R rays, K objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_scenes.scene import LEAST_OBJECTS, MOST_OBJECTS, SHAPES, Scene, empty_scene, place_solids
from jepa_scenes.shading import GAMMA, see
from jepa_scenes.solids import NOTHING, first_hits
from jepa_scenes.vectors import Rays, Vectors, column, unit

VERSION = 1
"""Of scenes and pictures: raise it whenever a pixel or a label changes, so that no old cache is used."""

FAR = 30.0
"""Depth of the backdrop, a screen across the camera's axis; nothing lies behind it."""
FINER = 4
"""Rays a side of a pixel that are averaged at edges."""
NORMAL_CHANGE, BRIGHTNESS_CHANGE = 0.9, 0.05
"""An edge lies where the cosine of two normals is lower, or brightness (0 to 1, gamma) differs by more."""
VISIBLE = 200 / (320 * 240)
"""Share of the picture that every object must show: CLEVR's 200 of 320 × 240 pixels."""
VISIBILITY_SIDE = 64
"""Pixels a side of the picture on which that is asked, whatever the size of the one that is drawn."""

GROUND_CLASS = "ground"
PIXEL_CLASSES = (GROUND_CLASS, *SHAPES)
"""Classes of pixels, by the number that stands in a picture's map of shapes."""


@dataclass(frozen=True)
class Rendering:
    """A picture of a scene, and the truth about it."""

    image: np.ndarray[Any, np.dtype[np.uint8]]
    """uint8 [S, S, 3]."""
    depth: Vectors
    """float64 [S, S]: depth along the camera's axis of what the middle of each pixel shows."""
    ids: np.ndarray[Any, np.dtype[np.uint8]]
    """uint8 [S, S]: 0 for plane and backdrop, k + 1 for object k."""
    scene: Scene

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.scene.solids)

    @property
    def distance(self) -> float:
        """Least depth of an object's centre along the camera's axis."""
        return float(self.scene.depths.min())

    @property
    def shapes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """uint8 [S, S]: number in `PIXEL_CLASSES` of what each pixel shows."""
        classes = [0, *(PIXEL_CLASSES.index(solid.shape) for solid in self.scene.solids)]
        return np.array(classes, dtype=np.uint8)[self.ids]


def render_number(number: int, seed: int, size: int, field: float) -> Rendering:
    """Picture `number` of those of `seed`, of `size` pixels a side and a field of view of `field` degrees."""
    return render(random_scene(number, seed, field), size, field)


def random_scene(number: int, seed: int, field: float) -> Scene:
    """Scene `number` of all that `seed` gives: every object is visible, at this field of view."""
    draw = np.random.default_rng([seed, number])
    count = int(draw.integers(LEAST_OBJECTS, MOST_OBJECTS + 1))
    bare = empty_scene(draw)
    rays = camera_rays(bare, pixel_centres(VISIBILITY_SIDE), field)[0]
    while True:
        scene = place_solids(bare, count, draw)
        number_at = first_hits(rays, scene.solids).number
        shown = np.bincount(number_at[number_at != NOTHING], minlength=count)
        if shown.min() >= VISIBLE * VISIBILITY_SIDE**2:
            return scene


def render(scene: Scene, size: int, field: float) -> Rendering:
    """The picture of a scene."""
    rays, along = camera_rays(scene, pixel_centres(size), field)
    sight = see(rays, scene)
    light, hits = sight.light.copy(), sight.hits
    edges = np.flatnonzero(_edges(light, hits.number, hits.normal, size))
    finer = camera_rays(scene, _inner_points(edges, size), field)[0]
    light[:, edges] = see(finer, scene).light.reshape(3, len(edges), FINER * FINER).mean(2)
    image = np.rint(255 * _with_gamma(light)).astype(np.uint8)
    depth = np.minimum(hits.distance * along, FAR)
    return Rendering(
        image.T.reshape(size, size, 3).copy(),
        depth.reshape(size, size),
        (hits.number + 1).astype(np.uint8).reshape(size, size),
        scene,
    )


def camera_rays(scene: Scene, points: Vectors, field: float) -> tuple[Rays, Vectors]:
    """Rays through points of the picture [2, R], and the depth [R] that they gain in each unit of length.

    Points are columns and rows from -1 (left, top) to 1.
    """
    across, down = points * np.tan(np.radians(field) / 2)
    right = unit(np.array([scene.axis[1], -scene.axis[0], 0.0]))
    upward = np.cross(right, scene.axis)
    direction = column(scene.axis) + across * column(right) - down * column(upward)
    length = np.sqrt((direction * direction).sum(0))
    return Rays(column(scene.camera), direction / length), 1 / length


def pixel_centres(size: int) -> Vectors:
    """The middle of each pixel, row by row: [2, S·S]."""
    line = (np.arange(size) + 0.5) * 2 / size - 1
    return np.stack([np.tile(line, size), np.repeat(line, size)])


def _inner_points(pixels: np.ndarray[Any, Any], size: int) -> Vectors:
    """`FINER` × `FINER` points in each of these pixels: [2, pixels · FINER²]."""
    line = (np.arange(FINER) + 0.5) / FINER
    rows, columns = (pixels[:, None] // size, pixels[:, None] % size)
    across = columns + np.tile(line, FINER)
    down = rows + np.repeat(line, FINER)
    return np.stack([across.ravel(), down.ravel()]) * 2 / size - 1


def _with_gamma(light: Vectors) -> Vectors:
    """Linear light as brightness of 0 to 1."""
    shown: Vectors = np.clip(light, 0, 1) ** (1 / GAMMA)
    return shown


def _edges(light: Vectors, number: np.ndarray[Any, Any], normal: Vectors, size: int) -> np.ndarray[Any, Any]:
    """bool [S·S]: whether a pixel differs from the one beside, above or below it."""
    brightness = _with_gamma(light).reshape(3, size, size)
    number, normal = number.reshape(size, size), normal.reshape(3, size, size)
    edge = np.zeros((size, size), dtype=bool)
    for axis in (0, 1):
        here, there = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        change = np.abs(brightness[:, *here] - brightness[:, *there]).max(0) > BRIGHTNESS_CHANGE
        turn = (normal[:, *here] * normal[:, *there]).sum(0) < NORMAL_CHANGE
        differs = change | turn | (number[here] != number[there])
        edge[here] |= differs
        edge[there] |= differs
    return edge.ravel()
