"""Where rays meet the objects: sphere, cube and capped cylinder, exactly.

Each object is asked only for those rays that meet the sphere around it.

Axes: R rays, K objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jepa_scenes.scene import Solid
from jepa_scenes.vectors import Flags, Numbers, Rays, Vectors, column, dot

NOTHING = -1
"""Number of the object that a ray meets where it meets none."""
TINY = 1e-12

Meeting = tuple[Vectors, Vectors]
"""Distances [R], infinite where nothing is met, and normals [3, R], of length 1 where something is."""


@dataclass(frozen=True)
class Hits:
    """What rays meet first: the object's number [R], `NOTHING` for none; distance [R]; normal [3, R]."""

    number: Numbers
    distance: Vectors
    normal: Vectors


def first_hits(rays: Rays, solids: Sequence[Solid]) -> Hits:
    """The first object that each ray meets."""
    number = np.full(len(rays), NOTHING)
    distance = np.full(len(rays), np.inf)
    normal = np.zeros((3, len(rays)))
    for index, solid in enumerate(solids):
        near = np.flatnonzero(_meets_sphere_around(rays, solid))
        far, normals = meet(rays.take(near), solid)
        closer = far < distance[near]
        rows = near[closer]
        number[rows], distance[rows], normal[:, rows] = index, far[closer], normals[:, closer]
    return Hits(number, distance, normal)


def any_hit(rays: Rays, solids: Sequence[Solid]) -> Flags:
    """Whether a ray meets any object: bool [R]."""
    blocked = np.zeros(len(rays), dtype=bool)
    for solid in solids:
        near = np.flatnonzero(_meets_sphere_around(rays, solid) & ~blocked)
        blocked[near] = np.isfinite(meet(rays.take(near), solid)[0])
    return blocked


def _meets_sphere_around(rays: Rays, solid: Solid) -> Flags:
    """Whether a ray meets the sphere that holds the object."""
    offset = rays.origin - column(solid.centre)
    squared = {"sphere": 1.0, "cube": 1.5, "cylinder": 2.0}[solid.shape] * solid.radius**2
    along, beyond = dot(offset, rays.direction), dot(offset, offset) - squared
    return (along * along > beyond) & ((along < 0) | (beyond < 0))


def meet(rays: Rays, solid: Solid) -> Meeting:
    """Distances and normals of the first points on the object, of rays that begin outside of it."""
    offset = rays.origin - column(solid.centre)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _MEET[solid.shape](offset, rays.direction, solid)


def _meet_sphere(offset: Vectors, direction: Vectors, solid: Solid) -> Meeting:
    along = dot(offset, direction)
    root = along * along - dot(offset, offset) + solid.radius**2
    distance = -along - np.sqrt(np.maximum(root, 0))
    hit = (root > 0) & (distance > 0)
    return np.where(hit, distance, np.inf), (offset + distance * direction) / solid.radius


def _meet_cube(offset: Vectors, direction: Vectors, solid: Solid) -> Meeting:
    """By slabs, in the frame in which the cube's sides lie along the axes."""
    local, heading = _turned(offset, -solid.yaw), _nonzero(_turned(direction, -solid.yaw))
    edges = np.stack([(-solid.half_height - local) / heading, (solid.half_height - local) / heading])
    enter, leave = edges.min(0), edges.max(0)
    distance = enter.max(0)
    hit = (distance < leave.min(0)) & (distance > 0)
    face = enter.argmax(0)
    normal = np.where(np.arange(3)[:, None] == face, -np.sign(heading), 0.0)
    return np.where(hit, distance, np.inf), _turned(normal, solid.yaw)


def _meet_cylinder(offset: Vectors, direction: Vectors, solid: Solid) -> Meeting:
    """The round side and the two caps: the slab between the caps, cut with the endless cylinder."""
    x, y, z = np.broadcast_arrays(*offset, direction[0])[:3]
    dx, dy, dz = direction[0], direction[1], _nonzero(direction[2])
    square = np.maximum(dx * dx + dy * dy, TINY)
    along = x * dx + y * dy
    root = along * along - square * (x * x + y * y - solid.radius**2)
    half = np.sqrt(np.maximum(root, 0))
    enter_side, leave_side = (-along - half) / square, (-along + half) / square
    caps = np.stack([(-solid.half_height - z) / dz, (solid.half_height - z) / dz])
    enter_cap, leave_cap = caps.min(0), caps.max(0)
    distance = np.maximum(enter_side, enter_cap)
    hit = (root > 0) & (distance < np.minimum(leave_side, leave_cap)) & (distance > 0)
    on_side = enter_side >= enter_cap
    side = np.stack([x + distance * dx, y + distance * dy, np.zeros_like(dz)]) / solid.radius
    cap = np.stack([np.zeros_like(dz), np.zeros_like(dz), -np.sign(dz)])
    return np.where(hit, distance, np.inf), np.where(on_side, side, cap)


_MEET: Mapping[str, Callable[[Vectors, Vectors, Solid], Meeting]] = {
    "sphere": _meet_sphere,
    "cube": _meet_cube,
    "cylinder": _meet_cylinder,
}


def _turned(vectors: Vectors, angle: float) -> Vectors:
    """Vectors [3, R] turned about z."""
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y, z = vectors
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z])


def _nonzero(values: Vectors) -> Vectors:
    """The values, where they are 0 a tiny number, so that they can be divided by."""
    return np.where(np.abs(values) < TINY, TINY, values)
