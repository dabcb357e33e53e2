"""VTAB's labels on cases made by hand, edges included; the folders of CLEVR and KITTI they are read from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import UserError
from jepa_core.evaluate import KnownValues
from jepa_core.protocols import Tasks
from jepa_core.testing import check_source
from jepa_scenes.clevr import ClevrSource
from jepa_scenes.kitti import KittiSource
from jepa_scenes.labels import count_class, distance_class, vehicle_class
from jepa_scenes.tasks import Truth


@pytest.mark.parametrize(("count", "expected"), [(3, 0), (4, 1), (9, 6), (10, 7)])
def test_counts_are_classes_from_three_objects_on(count: int, expected: int) -> None:
    assert count_class(count) == expected


@pytest.mark.parametrize("count", [0, 2, 11])
def test_other_counts_are_no_class(count: int) -> None:
    with pytest.raises(
        UserError, match=rf"^CLEVR_x has {count} objects; the classes .* are 3 to 10 objects$"
    ):
        count_class(count, "CLEVR_x")


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (1e-6, 0), (7.9, 0), (8.0, 0), (8.000001, 1), (8.5, 1), (8.500001, 2), (9.0, 2), (9.2, 3), (9.5, 3),
        (9.6, 4), (10.0, 4), (10.000001, 5), (99, 5), (100.0, 5),
    ],
)  # fmt: skip
def test_distances_are_bins_closed_on_the_right(distance: float, expected: int) -> None:
    assert distance_class(distance) == expected
    vtab = [0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0]
    assert expected == np.searchsorted(vtab, distance) - 1, "VTAB's definition, written out"


@pytest.mark.parametrize("distance", [0.0, -1.0, 100.5, float("nan")])
def test_other_distances_are_no_class(distance: float) -> None:
    with pytest.raises(UserError, match=r"^the scene has its nearest object at a depth of \S+; the classes"):
        distance_class(distance)


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ([], 3), ([8.0], 0), ([8.01], 1), ([20.0], 1), ([20.01], 2), ([999.0], 2), ([999.5], 3),
        ([50.0, 3.0, 12.0], 0), ([-2.0, 30.0], 0),
    ],
)  # fmt: skip
def test_the_nearest_vehicle_decides_and_none_is_a_class(depths: Sequence[float], expected: int) -> None:
    assert vehicle_class(depths) == expected


def test_a_vehicle_far_behind_is_no_class() -> None:
    with pytest.raises(UserError, match=r"nearest vehicle at z = -100; the classes .* above -100, up to 999"):
        vehicle_class([-100.0])


def test_a_split_is_labelled_as_a_whole_and_names_the_scene_that_is_of_no_class() -> None:
    truth = Truth.of([3, 10], [8.0, 10.5])
    assert truth.count.tolist() == [0, 7]
    assert truth.distance.tolist() == [0, 5]
    with pytest.raises(UserError, match=r"^b has 12 objects"):
        Truth.of([3, 12], [8.0, 9.0], ["a", "b"])
    with pytest.raises(UserError, match=r"unknown task 'colour'; known: count, distance"):
        truth.labels("colour")


def made_scene(part: str, index: int, depths: Sequence[float]) -> dict[str, Any]:
    """One entry of CLEVR's file, with what labels do not read left out."""
    objects = [
        {"shape": "cube", "3d_coords": [0.1, 2.0, 0.7], "pixel_coords": [100, 120, depth], "rotation": 12.5}
        for depth in depths
    ]
    return {
        "split": part,
        "image_index": index,
        "image_filename": f"CLEVR_{part}_{index:06d}.png",
        "objects": objects,
    }


@pytest.fixture
def clevr(tmp_path: Path) -> Path:
    """A folder of CLEVR: 20 pictures of train and 4 of val, 48 × 32 pixels, with a red left edge."""
    folder = tmp_path / "CLEVR_v1.0"
    (folder / "scenes").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, total in (("train", 20), ("val", 4)):
        (folder / "images" / part).mkdir(parents=True)
        scenes = []
        for index in range(total):
            depths = [8.0 + 0.1 * index + k for k in range(3 + index % 8)]
            scenes.append(made_scene(part, index, depths[::-1]))
            pixels = draw.integers(0, 255, (32, 48, 3)).astype(np.uint8)
            pixels[:, :12] = (255, 0, 0)
            Image.fromarray(pixels).save(folder / "images" / part / scenes[-1]["image_filename"])
        content = {"info": {"split": part, "version": "1.0"}, "scenes": scenes}
        (folder / "scenes" / f"CLEVR_{part}_scenes.json").write_text(json.dumps(content))
    return folder


def clevr_source(folder: Path, **settings: Any) -> ClevrSource:
    return ClevrSource(ClevrSource.Config(name="clevr", path=folder, **settings))


def test_clevr_is_split_and_labelled_as_in_vtab(clevr: Path) -> None:
    source = clevr_source(clevr)
    assert isinstance(source, Tasks)
    assert isinstance(source, KnownValues)
    sizes = {name: len(source.split(name)) for name in ("train", "val", "test")}
    assert sizes == {"train": 18, "val": 2, "test": 4}
    val = source.labelled_samples("count", "val", (3, 64, 64))
    assert [val[0][1], val[1][1]] == [18 % 8, 19 % 8]
    assert val.keys() == ["CLEVR_train_000018.png", "CLEVR_train_000019.png"]
    distances = source.labelled_samples("distance", "test", (3, 64, 64))
    assert [distances[index][1] for index in range(4)] == [0, 1, 1, 1], "8.0, 8.1, 8.2, 8.3"
    assert distances.classes is not None
    assert len(distances.classes) == 6
    known = source.known_values("distance", "test")["the true count"]
    assert known.argmax(1).tolist() == [0, 1, 2, 3]
    assert source.known_values("count", "test") == {}
    assert clevr_source(clevr, label="distance").split("test")[0][1] == 0


def test_whole_pictures_are_squashed_so_that_nothing_is_cut_off(clevr: Path) -> None:
    image, _ = clevr_source(clevr).split("train")[0]
    assert image.size == (32, 32)
    left = np.asarray(image)[:, :6]
    assert left[..., 0].mean() > 240
    assert left[..., 1].mean() < 20


def test_the_folder_passes_the_checks_of_sources(clevr: Path) -> None:
    check_source("clevr", path=str(clevr))


def cut_short(folder: Path) -> None:
    file = folder / "scenes/CLEVR_train_scenes.json"
    file.write_bytes(file.read_bytes()[:400])


def without_objects(folder: Path) -> None:
    file = folder / "scenes/CLEVR_train_scenes.json"
    content = json.loads(file.read_text())
    content["scenes"][3]["objects"][0]["pixel_coords"] = [1, 2]
    file.write_text(json.dumps(content))


def too_many(folder: Path) -> None:
    file = folder / "scenes/CLEVR_train_scenes.json"
    content = json.loads(file.read_text())
    content["scenes"][3]["objects"] *= 4
    file.write_text(json.dumps(content))


def climbing_name(folder: Path) -> None:
    file = folder / "scenes/CLEVR_train_scenes.json"
    content = json.loads(file.read_text())
    content["scenes"][0]["image_filename"] = "../val/CLEVR_val_000000.png"
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "scenes/CLEVR_train_scenes.json").unlink(), "CLEVR cannot be read: .*No such"),
        (lambda f: (f / "scenes/CLEVR_train_scenes.json").write_text("{}"), "has no list 'scenes'"),
        (cut_short, "CLEVR_train_scenes.json is no JSON, or is cut off"),
        (without_objects, "^scene 3 of .* is no scene of CLEVR: expected image_filename, and objects"),
        (too_many, "^CLEVR_train_000003.png has 24 objects; the classes of the task 'count' are 3 to 10"),
        (climbing_name, "^scene 0 of .* is no scene of CLEVR"),
        (
            lambda f: (f / "images/train/CLEVR_train_000002.png").unlink(),
            "lacks CLEVR_train_000002.png, of 18 that CLEVR_train_scenes.json describes",
        ),
        (
            lambda f: [file.unlink() for file in (f / "images/train").iterdir()],
            "lacks CLEVR_train_000000.png and 17 more, of 18",
        ),
    ],
)  # fmt: skip
def test_a_damaged_folder_of_clevr_is_one_line(
    clevr: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(clevr)
    with pytest.raises(UserError, match=message) as error:
        clevr_source(clevr).split("train")
    assert "\n" not in str(error.value)


def test_another_folder_is_no_clevr(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.path is the folder CLEVR_v1.0, with images and scenes in it"):
        clevr_source(tmp_path).split("train")


LINE = "{} 0.00 0 1.57 712.4 143.0 810.7 307.9 1.89 0.48 1.20 1.84 1.47 {} 0.01"


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """A folder of KITTI's layout: 30 pictures of 60 × 20 pixels."""
    folder = tmp_path / "kitti"
    (folder / "training/image_2").mkdir(parents=True)
    (folder / "training/label_2").mkdir()
    for index in range(30):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"training/image_2/{index:06d}.png")
        lines = [LINE.format("Pedestrian", 2.0), "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10"]
        if index % 4 < 3:
            near = (7.5, 15.0, 35.0)[index % 4]
            lines += [LINE.format("Van", near), LINE.format("Car", near + 9)]
        (folder / f"training/label_2/{index:06d}.txt").write_text("\n".join(lines) + "\n")
    return folder


def kitti_source(folder: Path, **settings: Any) -> KittiSource:
    return KittiSource(KittiSource.Config(name="kitti", path=folder, **settings))


def test_kitti_is_labelled_by_its_nearest_vehicle(kitti: Path) -> None:
    whole = kitti_source(kitti, val_share=0, test_share=0).split("train")
    assert [whole[index][1] for index in range(4)] == [0, 1, 2, 3], "pedestrians and DontCare are no vehicles"
    assert whole[0][0].size == (20, 20)
    source = kitti_source(kitti)
    names = {part: set(source.split(part).keys()) for part in ("train", "val", "test")}
    assert {part: len(found) for part, found in names.items()} == {"train": 24, "val": 3, "test": 3}
    assert not names["train"] & (names["val"] | names["test"])
    check_source("kitti", path=str(kitti))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "label_2/000001.txt").write_text("Car 0 0\n"), "txt, line 1: 'Car 0 0' is no label"),
        (lambda f: (f / "label_2/000001.txt").write_text(LINE.format("Car", -100)), "has its nearest"),
        (lambda f: (f / "image_2/000004.png").unlink(), "lacks 000004.png, of 30 that label_2 describes"),
        (lambda f: [file.unlink() for file in (f / "label_2").iterdir()], "label_2 holds no .txt files"),
    ],
)  # fmt: skip
def test_a_damaged_folder_of_kitti_is_one_line(
    kitti: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(kitti / "training")
    with pytest.raises(UserError, match=message) as error:
        kitti_source(kitti).split("train")
    assert "\n" not in str(error.value)


def test_another_folder_is_no_kitti(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder .*label_2 cannot be read: No such file"):
        kitti_source(tmp_path).split("train")


def test_labels_are_whole_numbers_of_torch(clevr: Path) -> None:
    labels = clevr_source(clevr).truth("train").labels("distance")
    assert labels.dtype == torch.int64
    assert labels.shape == (18,)
