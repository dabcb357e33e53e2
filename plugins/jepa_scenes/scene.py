"""What stands where in a scene, drawn as CLEVR's generator does (Johnson et al. 2017, arXiv 1612.06890).

Three to ten objects on a plane, each of one of three shapes, two sizes, eight colours and two materials; the
camera and three lamps are moved a little in each scene. A scene follows from its random numbers alone.

Axes: K objects. Lengths are CLEVR's units; x and y span the plane, z points up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jepa_scenes.vectors import Vectors, unit

SHAPES = ("cube", "sphere", "cylinder")
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""Of 255, as the generator has them."""
RADII = {"large": 0.7, "small": 0.35}
LEAST_OBJECTS, MOST_OBJECTS = 3, 10
REACH = 3.0
"""Centres lie within so much of the middle, along x and along y."""
GAP, MARGIN = 0.25, 0.4
"""Least distance between two objects, and between their centres along each of the camera's directions on the
plane, so that of two objects one is clearly left of the other and one clearly behind the other."""
TRIES = 50
"""Places that are tried for an object before the scene is begun anew."""

CAMERA = (7.21, -6.83, 5.12)
LAMPS = ((7.5, 1.5, 8.0), (1.7, -9.9, 4.0), (-5.0, 5.0, 7.0))
"""Places of the key light, which throws shadows, of the fill light and of the back light."""
CAMERA_JITTER, LAMP_JITTER = 0.5, 1.0
"""Along each axis."""


@dataclass(frozen=True)
class Solid:
    """One object, standing on the plane."""

    shape: str
    radius: float
    """Of the sphere and the cylinder; of a cube that of the circle around its square. A sphere's and a
    cylinder's centre stands so high, a cube's 1/√2 of it."""
    colour: tuple[int, int, int]
    """Of 255, without gamma removed."""
    metal: bool
    x: float
    y: float
    yaw: float
    """Radians about z."""

    @property
    def half_height(self) -> float:
        """Of the object; its centre lies so far above the plane."""
        return self.radius / np.sqrt(2) if self.shape == "cube" else self.radius

    @property
    def centre(self) -> Vectors:
        """float64 [3]."""
        return np.array([self.x, self.y, self.half_height])


@dataclass(frozen=True)
class Scene:
    """Objects, camera and lamps."""

    solids: tuple[Solid, ...]
    camera: Vectors
    """Where the camera stands, float64 [3]; it looks at the middle of the plane."""
    lamps: Vectors
    """float64 [3 lamps, 3]; the first is the key light."""

    @property
    def axis(self) -> Vectors:
        """The direction in which the camera looks, float64 [3] of length 1."""
        return unit(-self.camera)

    @property
    def depths(self) -> Vectors:
        """float64 [K]: depth of each centre along the camera's axis, CLEVR's `pixel_coords[2]`."""
        return np.array([float((solid.centre - self.camera) @ self.axis) for solid in self.solids])


def empty_scene(draw: np.random.Generator) -> Scene:
    """Camera and lamps of a scene, without objects."""
    camera = np.array(CAMERA) + draw.uniform(-CAMERA_JITTER, CAMERA_JITTER, 3)
    lamps = np.array(LAMPS) + draw.uniform(-LAMP_JITTER, LAMP_JITTER, (3, 3))
    return Scene((), camera, lamps)


def place_solids(scene: Scene, count: int, draw: np.random.Generator) -> Scene:
    """The scene with so many objects, begun anew where one finds no place."""
    while True:
        solids: list[Solid] = []
        while len(solids) < count:
            placed = _place(_random_solid(draw), solids, scene.axis, draw)
            if placed is None:
                break
            solids.append(placed)
        else:
            return replace(scene, solids=tuple(solids))


def _random_solid(draw: np.random.Generator) -> Solid:
    """An object that has no place yet."""
    shape = SHAPES[draw.integers(len(SHAPES))]
    radius = list(RADII.values())[draw.integers(len(RADII))]
    colour = list(COLOURS.values())[draw.integers(len(COLOURS))]
    return Solid(shape, radius, colour, bool(draw.integers(2)), 0.0, 0.0, draw.uniform(0, 2 * np.pi))


def _place(solid: Solid, others: Sequence[Solid], axis: Vectors, draw: np.random.Generator) -> Solid | None:
    """The object at the first place of `TRIES` that keeps its distance to the others, or None."""
    behind = unit(axis[:2])
    right = np.array([behind[1], -behind[0]])
    for _ in range(TRIES):
        x, y = draw.uniform(-REACH, REACH, 2)
        if all(_apart(solid.radius, np.array([x - o.x, y - o.y]), o.radius, behind, right) for o in others):
            return replace(solid, x=float(x), y=float(y))
    return None


def _apart(radius: float, offset: Vectors, other: float, behind: Vectors, right: Vectors) -> bool:
    clear = np.hypot(*offset) - radius - other >= GAP
    return bool(clear and all(abs(offset @ direction) >= MARGIN for direction in (behind, right)))
