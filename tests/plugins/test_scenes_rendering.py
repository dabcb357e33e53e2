"""The ray caster of the scenes against formulas written down once more, and the rules of placing."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from jepa_scenes.rendering import FAR, VISIBLE, Rendering, camera_rays, pixel_centres, render, render_number
from jepa_scenes.scene import GAP, MARGIN, RADII, SHAPES, Scene, Solid, empty_scene
from jepa_scenes.solids import NOTHING, any_hit, first_hits, meet
from jepa_scenes.vectors import Rays, unit

FIELD = 43.0


@pytest.fixture(scope="module")
def pictures() -> list[Rendering]:
    """Twelve scenes, small."""
    return [render_number(number, seed=0, size=32, field=FIELD) for number in range(12)]


def solid(shape: str, x: float = 0.0, y: float = 0.0, *, radius: float = 0.7, yaw: float = 0.0) -> Solid:
    return Solid(shape, radius, (173, 35, 35), False, x, y, yaw)


def alone(thing: Solid) -> Scene:
    """A scene with one object."""
    bare = empty_scene(np.random.default_rng(0))
    return Scene((thing,), bare.camera, bare.lamps)


def along(start: tuple[float, float, float], to: tuple[float, float, float]) -> Rays:
    """One ray."""
    begin, end = (np.array(point, dtype=float)[:, None] for point in (start, to))
    return Rays(begin, unit(end - begin))


@pytest.mark.parametrize(
    ("shape", "start", "to", "distance", "normal"),
    [
        ("sphere", (5, 0, 0.7), (0, 0, 0.7), 4.3, (1, 0, 0)),
        ("sphere", (0, 0, 9), (0, 0, 0), 9 - 1.4, (0, 0, 1)),
        ("cube", (5, 0, 0.3), (0, 0, 0.3), 5 - 0.7 / math.sqrt(2), (1, 0, 0)),
        ("cube", (0.2, 0.1, 9), (0.2, 0.1, 0), 9 - math.sqrt(2) * 0.7, (0, 0, 1)),
        ("cylinder", (0, -5, 0.9), (0, 0, 0.9), 4.3, (0, -1, 0)),
        ("cylinder", (0.3, 0.3, 9), (0.3, 0.3, 0), 9 - 1.4, (0, 0, 1)),
    ],
)
def test_rays_meet_the_solids_where_they_stand(
    shape: str,
    start: tuple[float, float, float],
    to: tuple[float, float, float],
    distance: float,
    normal: tuple[float, float, float],
) -> None:
    far, normals = meet(along(start, to), solid(shape))
    assert far[0] == pytest.approx(distance, abs=1e-9)
    assert normals[:, 0] == pytest.approx(normal, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_beside_away_and_through_the_corner_of_the_sphere_around_miss(shape: str) -> None:
    beside, away = along((5, 0.8, 0.5), (-5, 0.8, 0.5)), along((5, 0, 0.5), (9, 0, 0.5))
    above = along((5, 0.0, 1.5), (-5, 0.0, 1.5))
    for ray in (beside, away, above):
        assert np.isinf(meet(ray, solid(shape))[0][0])
        assert not any_hit(ray, [solid(shape)])[0]
        assert first_hits(ray, [solid(shape)]).number[0] == NOTHING


def test_a_turned_cube_shows_its_corner() -> None:
    straight, turned = (
        meet(along((5, 0, 0.3), (0, 0, 0.3)), solid("cube", yaw=yaw)) for yaw in (0, math.pi / 4)
    )
    assert straight[0][0] - turned[0][0] == pytest.approx(0.7 - 0.7 / math.sqrt(2), abs=1e-6)
    assert np.linalg.norm(turned[1][:, 0]) == pytest.approx(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_point_that_is_met_lies_on_the_surface(shape: str) -> None:
    """Against the equations of the solids, from the camera, for a cube that is turned."""
    thing = solid(shape, 0.4, -0.3, yaw=0.5)
    scene = alone(thing)
    rays, _ = camera_rays(scene, pixel_centres(64), FIELD)
    hits = first_hits(rays, scene.solids)
    met = hits.number == 0
    assert met.sum() > 50
    local = rays.take(met).at(hits.distance[met]) - thing.centre[:, None]
    cosine, sine = math.cos(0.5), math.sin(0.5)
    x, y, z = cosine * local[0] + sine * local[1], cosine * local[1] - sine * local[0], local[2]
    half = thing.half_height
    surface = {
        "sphere": np.sqrt(x * x + y * y + z * z) - 0.7,
        "cube": np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - half,
        "cylinder": np.maximum(np.hypot(x, y), abs(z)) - 0.7,
    }[shape]
    assert np.abs(surface).max() < 1e-9
    assert (hits.normal[:, met] * rays.direction[:, met]).sum(0).max() < 0, "normals face the camera"


def test_depth_is_along_the_axis_of_the_camera() -> None:
    scene = alone(solid("sphere"))
    picture = render(scene, 65, FIELD)
    centre = float((scene.solids[0].centre - scene.camera) @ scene.axis)
    assert picture.distance == pytest.approx(centre)
    down = np.linalg.norm(scene.camera)
    assert picture.depth[32, 32] < down, (
        "the middle of the picture is the middle of the plane, behind the sphere"
    )
    assert picture.depth[picture.ids == 1].min() == pytest.approx(centre - 0.7, abs=0.02)
    ground = picture.depth[64, 32]
    ray, gain = camera_rays(scene, np.array([[0.0], [64 * 2 / 65 + 1 / 65 - 1]]), FIELD)
    assert ground == pytest.approx(-scene.camera[2] / ray.direction[2, 0] * gain[0])
    assert picture.depth.max() <= FAR


def test_pictures_are_pixels_depth_and_ids_of_one_size(pictures: list[Rendering]) -> None:
    for picture in pictures:
        assert picture.image.shape == (32, 32, 3)
        assert picture.image.dtype == picture.ids.dtype == np.uint8
        assert picture.depth.shape == picture.ids.shape == picture.shapes.shape == (32, 32)
        assert np.isfinite(picture.depth).all()
        assert picture.depth.min() > 4
        assert set(np.unique(picture.ids)) <= set(range(picture.count + 1))
        kinds = {SHAPES.index(thing.shape) + 1 for thing in picture.scene.solids}
        assert set(np.unique(picture.shapes)) - {0} <= kinds
        assert ((picture.shapes == 0) == (picture.ids == 0)).all()


def test_objects_are_brighter_towards_the_lamps_and_throw_a_shadow() -> None:
    """The key light stands high on the right: the sphere is brighter above, the plane on its left darker."""
    bare = empty_scene(np.random.default_rng(0))
    with_sphere, without = (render(scene, 64, FIELD) for scene in (alone(solid("sphere")), bare))
    rows, columns = np.nonzero(with_sphere.ids == 1)
    middle = int(np.median(columns))
    line = with_sphere.image[rows[columns == middle], middle, 0].astype(float)
    assert line[2:5].mean() > line[-5:-2].mean() + 20
    ground = with_sphere.ids == 0
    darker = ground & (without.image[..., 0].astype(int) - with_sphere.image[..., 0] > 25)
    assert 20 < darker.sum() < 400
    assert np.nonzero(darker)[1].mean() < np.median(columns)


def test_a_picture_is_the_same_in_another_process_and_at_another_time(pictures: list[Rendering]) -> None:
    code = (
        "import hashlib\nfrom jepa_scenes.rendering import render_number\n"
        "render_number(3, 0, 32, 43.0)\n"
        "p = render_number(7, 0, 32, 43.0)\n"
        "print(hashlib.sha256(p.image.tobytes() + p.depth.tobytes() + p.ids.tobytes()).hexdigest())"
    )
    own = pictures[7]
    expected = hashlib.sha256(own.image.tobytes() + own.depth.tobytes() + own.ids.tobytes()).hexdigest()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == expected
    other = render_number(7, seed=1, size=32, field=FIELD)
    assert not np.array_equal(other.image, own.image)


def test_scenes_keep_the_rules_of_placing(pictures: list[Rendering]) -> None:
    counts = set()
    for picture in pictures:
        scene = picture.scene
        counts.add(picture.count)
        assert 3 <= picture.count <= 10
        behind = unit(scene.axis[:2])
        right = np.array([behind[1], -behind[0]])
        for index, one in enumerate(scene.solids):
            assert abs(one.x) <= 3 >= abs(one.y)
            assert one.radius in RADII.values()
            for other in scene.solids[:index]:
                offset = np.array([one.x - other.x, one.y - other.y])
                assert np.hypot(*offset) - one.radius - other.radius >= GAP
                assert min(abs(offset @ behind), abs(offset @ right)) >= MARGIN
    assert len(counts) >= 4


def test_every_object_is_visible() -> None:
    """By the rule's own picture of 64 pixels a side: 10.7 pixels, 200 of CLEVR's 320 × 240."""
    for number in range(6):
        picture = render_number(number, seed=5, size=64, field=FIELD)
        shown = np.bincount(picture.ids.ravel(), minlength=picture.count + 1)[1:]
        assert shown.min() >= VISIBLE * 64 * 64
        assert len(shown) == picture.count


def test_the_size_changes_the_picture_and_not_the_scene() -> None:
    small, large = (render_number(2, seed=0, size=size, field=FIELD) for size in (16, 48))
    assert small.count == large.count
    assert small.distance == large.distance
    assert small.scene.solids == large.scene.solids
