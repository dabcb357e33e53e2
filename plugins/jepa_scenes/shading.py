"""What a ray sees: light on objects and plane, shadows of the key light, highlights, mirrors of metal.

Light is linear; lamps lose nothing on the way. Blinn's highlights; metal mirrors the scene once.

Axes: R rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_scenes.scene import Scene
from jepa_scenes.solids import NOTHING, Hits, any_hit, first_hits
from jepa_scenes.vectors import Flags, Rays, Vectors, column, dot, unit

GAMMA = 2.2
AMBIENT = 0.16
LAMP_LIGHT = (0.75, 0.28, 0.22)
"""Of the key, the fill and the back light."""
SHININESS, HIGHLIGHT = {True: 80.0, False: 12.0}, {True: 0.9, False: 0.12}
"""Exponent and strength of the highlight, of metal and of rubber."""
MATT, MIRROR, WHITE = 0.55, 0.8, 0.14
"""Of metal: share of the matt colour; strength of what is mirrored, and how far that is not tinted."""
GROUND, BACKDROP = 0.44, 0.21
"""Grey of the plane, and of what it fades into."""
FADE = (7.0, 22.0)
"""Distances from the middle where the plane begins to fade and has become the backdrop."""
LIFT = 1e-4
"""Rays that leave a surface begin so far above it."""


@dataclass(frozen=True)
class Sight:
    """What rays see: light [3, R], the object's number [R] (`NOTHING`: plane or backdrop), distance [R] and
    normal [3, R] of what they meet; the distance of the backdrop is infinite."""

    light: Vectors
    hits: Hits


def see(rays: Rays, scene: Scene, mirrors: bool = True) -> Sight:
    """What rays see of a scene."""
    hits = with_ground(rays, first_hits(rays, scene.solids))
    light = np.full((3, len(rays)), BACKDROP)
    ground = (hits.number == NOTHING) & np.isfinite(hits.distance)
    if ground.any():
        light[:, ground] = _ground_light(rays.take(ground), hits, ground, scene)
    solid = hits.number != NOTHING
    if solid.any():
        light[:, solid] = _solid_light(rays.take(solid), hits, solid, scene, mirrors)
    return Sight(light, hits)


def with_ground(rays: Rays, hits: Hits) -> Hits:
    """The hits, and the plane where no object is met."""
    falling = (hits.number == NOTHING) & (rays.direction[2] < -1e-9)
    distance, normal = hits.distance.copy(), hits.normal.copy()
    height = np.broadcast_to(rays.origin[2], falling.shape)
    distance[falling] = -height[falling] / rays.direction[2, falling]
    normal[2, falling] = 1.0
    return Hits(hits.number, distance, normal)


def _ground_light(rays: Rays, hits: Hits, chosen: Flags, scene: Scene) -> Vectors:
    points, normals = rays.at(hits.distance[chosen]), hits.normal[:, chosen]
    diffuse, _ = _lamplight(points, normals, -rays.direction, scene, 1.0)
    start, end = FADE
    nearness = 1 - np.clip((np.hypot(points[0], points[1]) - start) / (end - start), 0, 1)
    share = nearness * nearness * (3 - 2 * nearness)
    return share * GROUND * diffuse + (1 - share) * np.full((3, 1), BACKDROP)


def _solid_light(rays: Rays, hits: Hits, chosen: Flags, scene: Scene, mirrors: bool) -> Vectors:
    number = hits.number[chosen]
    points, normals = rays.at(hits.distance[chosen]), hits.normal[:, chosen]
    colours = np.array([solid.colour for solid in scene.solids]).T / 255
    colour = (colours**GAMMA)[:, number]
    metal = np.array([solid.metal for solid in scene.solids])[number]
    shininess, strength = (np.where(metal, table[True], table[False]) for table in (SHININESS, HIGHLIGHT))
    diffuse, highlight = _lamplight(points, normals, -rays.direction, scene, shininess)
    matt = np.where(metal & mirrors, MATT, 1.0)
    light = matt * colour * diffuse + strength * highlight
    if mirrors and metal.any():
        facing = dot(rays.direction[:, metal], normals[:, metal])
        bounced = rays.direction[:, metal] - 2 * facing * normals[:, metal]
        start = points[:, metal] + LIFT * normals[:, metal]
        mirrored = see(Rays(start, bounced), scene, mirrors=False).light
        light[:, metal] += MIRROR * (WHITE + (1 - WHITE) * colour[:, metal]) * mirrored
    return light


def _lamplight(
    points: Vectors, normals: Vectors, to_eye: Vectors, scene: Scene, shininess: Vectors | float
) -> tuple[Vectors, Vectors]:
    """Diffuse light and highlight [R] at points with these normals; only the key light throws shadows."""
    diffuse, highlight = np.full(points.shape[1], AMBIENT), np.zeros(points.shape[1])
    for index, (place, strength) in enumerate(zip(scene.lamps, LAMP_LIGHT, strict=True)):
        to_lamp = unit(column(place) - points)
        facing = np.maximum(dot(normals, to_lamp), 0)
        if index == 0:
            lit = np.flatnonzero(facing > 0)
            start = points[:, lit] + LIFT * normals[:, lit]
            facing[lit[any_hit(Rays(start, to_lamp[:, lit]), scene.solids)]] = 0
        diffuse += strength * facing
        halfway = np.maximum(dot(normals, unit(to_lamp + to_eye)), 0)
        highlight += strength * np.where(facing > 0, halfway**shininess, 0)
    return diffuse, highlight
