"""Arrow and speed: balanced, hidden from single frames, no frame in two splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core.data import TransformSettings, eval_loader
from jepa_core.errors import UserError
from jepa_core.evaluate import FeatureMap, LinearProbe, extract
from jepa_core.protocols import Tasks
from jepa_vjepa.clips import ClipsSource
from jepa_vjepa.labels import TASKS, amounts, differences, one_frame
from tests.plugins.made_clips import numbered, numbers_of, write_video

SHAPE = (3, 4, 8, 12)


def source(folder: Path, lengths: dict[str, int], **settings: object) -> ClipsSource:
    for name, frames in lengths.items():
        write_video(folder / "clips" / name, numbered(frames, (32, 48)))
    own = {
        "frame_step": 1,
        "hold_out": "time",
        "val_share": 0.0,
        "test_share": 0.5,
        "task_every": 3,
        **settings,
    }
    return ClipsSource(ClipsSource.Config(name="clips", path=folder / "clips", **own))


@pytest.mark.parametrize("task", list(TASKS))
def test_labels_are_balanced_and_a_single_frame_is_the_same_for_all(tmp_path: Path, task: str) -> None:
    clips = source(tmp_path, {"a.mp4": 50, "b.mkv": 60})
    assert isinstance(clips, Tasks)
    assert clips.tasks() == ["arrow", "speed"]
    samples = clips.labelled_samples(task, "train", SHAPE)
    assert samples.classes == list(TASKS[task])
    counts = Counter(samples[index][1] for index in range(len(samples)))
    assert set(counts.values()) == {len(samples) // len(TASKS[task])}
    for place in range(0, len(samples), len(TASKS[task])):
        shown = {}
        for index in range(place, place + len(TASKS[task])):
            frames, label = samples[index]
            shown[label] = numbers_of(frames)
            assert set(np.diff(shown[label])) == {list(TASKS[task].values())[label]}
        assert len({numbers[SHAPE[1] // 2] for numbers in shown.values()}) == 1


@pytest.mark.parametrize("task", list(TASKS))
def test_no_frame_is_in_two_splits_and_a_window_lies_between(tmp_path: Path, task: str) -> None:
    clips = source(tmp_path, {"a.mp4": 60}, frame_step=1, val_share=0.3, test_share=0.3)
    seen: dict[str, set[int]] = {}
    for split in ("train", "val", "test"):
        samples = clips.labelled_samples(task, split, (3, 3, 32, 48))
        seen[split] = {number for i in range(len(samples)) for number in numbers_of(samples[i][0])}
    assert max(seen["train"]) < 24
    assert min(seen["val"]) >= 24 + 3
    assert max(seen["val"]) < 42
    assert min(seen["test"]) >= 42 + 3


def test_files_that_are_too_short_are_told_and_damaged_ones_skipped(tmp_path: Path) -> None:
    clips = source(tmp_path, {"a.mp4": 60, "short.mp4": 9})
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"no film")
    samples = clips.labelled_samples("speed", "test", SHAPE)
    assert samples.note.endswith("places, a window of each label (1 of 3 files are too short)")
    held = eval_loader(samples, TransformSettings(), SHAPE, 8)
    labels = torch.cat([labels for _, labels in held])
    assert torch.bincount(labels).tolist() == [len(labels) // 3] * 3
    assert {Path(skipped.path).name for skipped in held.skipped} == {"bad.mp4"}
    with pytest.raises(
        UserError, match=r"'speed': 33 times data.frame_step frames in a split; lower data.frame"
    ):
        source(tmp_path / "one", {"a.mp4": 40}).labelled_samples("speed", "test", (3, 8, 32, 48))
    with pytest.raises(UserError, match=r"the task 'arrow' needs views \(C, T, H, W\)"):
        clips.labelled_samples("arrow", "test", (3, 32, 48))


def test_class_folders_are_a_task_as_well(tmp_path: Path) -> None:
    clips = source(
        tmp_path, {"jump/a.mp4": 40, "run/b.mp4": 40, "run/c.mp4": 40}, hold_out="files", test_share=0.3
    )
    assert clips.tasks() == ["class", "arrow", "speed"]
    samples = clips.labelled_samples("class", "train", SHAPE)
    assert (len(samples), samples.classes) == (2, ["jump", "run"])


def rows(
    clips: ClipsSource, task: str, split: str, maps: list[FeatureMap]
) -> dict[str, tuple[Tensor, Tensor]]:
    plain = TransformSettings(mean=(0, 0, 0), std=(1, 1, 1))
    loader = eval_loader(clips.labelled_samples(task, split, SHAPE), plain, SHAPE, 16)
    found = extract(maps, loader)
    return {m.name: (f.values, f.labels) for m, f in zip(maps, found, strict=True)}


class Brightness:
    """Stands in for a trained model: the brightness of each frame, which grows along a film."""

    def features(self, views: Tensor, role: str = "target", pool: str | None = "mean") -> Tensor:
        return views.mean((1, 3, 4))


def test_controls_show_what_gives_the_labels_away(tmp_path: Path) -> None:
    """The films brighten by a step a frame: order and speed are plain to differences, not to one frame."""
    clips = source(tmp_path, {"a.mp4": 60, "b.mp4": 60})
    maps = list(clips.controls(Brightness(), "target", False))
    assert [row.name for row in maps] == ["one frame", "frame differences", "amount of change"]
    assert maps[0].description == "the trained target encoder, the window's middle frame in place of all"
    for task, classes in (("arrow", 2), ("speed", 3)):
        train, test = (rows(clips, task, split, maps) for split in ("train", "test"))
        probe = LinearProbe(LinearProbe.Config(name="linear", l2=[1e-2]))
        scores = {name: probe(train[name], test[name], classes)["top1"] for name in train}
        assert scores["one frame"] == pytest.approx(1 / classes), "identical inputs, balanced labels"
        assert scores["frame differences"] > 0.9
        assert (scores["amount of change"] > 0.9) is (task == "speed"), "it has no direction"


def test_motion_that_is_its_own_mirror_image_has_no_arrow(tmp_path: Path) -> None:
    """A film that goes to and fro shows each window both ways at other places: nothing tells them apart."""
    period = 12
    film = numbered(period // 2 + 1, (32, 48))
    wave = [i if i <= period // 2 else period - i for i in (np.arange(120) % period)]
    write_video(tmp_path / "clips" / "a.mp4", film[wave], codec="libx264", gop=1)
    clips = source(tmp_path, {}, task_every=2)
    maps = list(clips.controls(Brightness(), "target", False))
    train, test = (rows(clips, "arrow", split, maps) for split in ("train", "test"))
    linear = LinearProbe(LinearProbe.Config(name="linear", l2=[1e-2]))
    assert abs(linear(train["frame differences"], test["frame differences"], 2)["top1"] - 0.5) < 0.1


def test_one_frame_is_the_middle_and_differences_are_between_neighbours() -> None:
    views = torch.randn(2, 3, 5, 32, 16)
    assert torch.equal(one_frame(views), views[:, :, 2:3].expand_as(views))
    found = differences(views)
    change = (views[:, :, 1:] - views[:, :, :-1]).transpose(1, 2)
    assert found.shape == (2, 4, 3 * 16 * 16)
    torch.testing.assert_close(found, change.unflatten(3, (16, 2)).mean(4).flatten(2))


def test_amounts_of_change_are_logs_of_means_over_areas() -> None:
    views = torch.randn(2, 3, 6, 8, 8)
    found = amounts(views).unflatten(1, (3, 4, 4))
    change = (views[:, :, 2:] - views[:, :, :-2]).abs()[1, :, :, 2:4, 6:8].mean()
    assert float(found[1, 1, 1, 3]) == pytest.approx(float((change + 1e-3).log()), abs=1e-5)
    assert amounts(views[:, :, :2]).isfinite().all()
