"""A seeded draw of so many labels of each class: shares, numbers, tasks, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

from jepa_core import UserError, plugins
from jepa_core.data import BaseSamples, SourceSettings
from jepa_core.data.sources.labelled import LabelledSource, read_labels
from jepa_core.data.sources.torchvision import TorchvisionSamples
from jepa_core.types import Field, Sample

COUNTS = {0: 40, 1: 20, -1: 30}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """40 images of class 0, 20 of class 1, 30 without a label; the value of an image is its number."""
    labels = np.repeat(list(COUNTS), list(COUNTS.values()))
    images = np.broadcast_to(np.arange(90, dtype=np.uint8)[:, None, None, None], (90, 4, 4, 3))
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    return tmp_path / "images.npz"


def labelled(file: Path, **settings: Any) -> LabelledSource:
    source = {"name": "npz", "path": str(file), "val_share": 0.0, "test_share": 0.0}
    config = LabelledSource.Config(**{"name": "labelled", "source": source, **settings})
    config.check()
    return LabelledSource(config)


def drawn(file: Path, **settings: Any) -> list[int]:
    """The numbers of the training images."""
    samples: Any = labelled(file, **settings).split("train")
    return samples.tensors()[0][:, 0, 0, 0].tolist()


def test_without_a_number_all_that_have_a_label_are_kept(file: Path) -> None:
    assert drawn(file) == list(range(60))


def test_so_many_of_each_class_or_a_share_of_each(file: Path) -> None:
    for settings, expected in (
        ({"per_class": 7}, (7, 7)),
        ({"share": 0.1}, (4, 2)),
        ({"share": 0.01}, (1, 1)),
    ):
        numbers = drawn(file, **dict(settings))
        assert Counter(number < 40 for number in numbers) == {True: expected[0], False: expected[1]}
        assert numbers == sorted(numbers)


def test_a_draw_follows_from_its_seed_and_a_larger_one_holds_it(file: Path) -> None:
    first = drawn(file, per_class=5)
    assert first == drawn(file, per_class=5)
    assert first != drawn(file, per_class=5, draw_seed=1)
    assert set(first) < set(drawn(file, per_class=9)) < set(drawn(file, share=0.9))


def test_the_note_says_what_was_drawn(file: Path) -> None:
    note = labelled(file, per_class=5, draw_seed=3).split("train").note
    assert note.endswith("; 10 of 60 labelled samples, draw 3")


def test_held_out_splits_stay_whole(file: Path) -> None:
    held_out = {"name": "npz", "path": str(file), "val_share": 0.2, "test_share": 0.1}
    source = labelled(file, source=held_out, per_class=2)
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [4, 18, 9]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"per_class": 21}, "data.per_class is 21, and the class '1' has 20 labelled training samples"),
        ({"per_class": 2, "share": 0.1}, "data.per_class and data.share both say how many labels"),
        ({"task": "count"}, "data.task needs data.view_shape"),
        (
            {"task": "count", "view_shape": [3, 4, 4]},
            "task 'count': the data can be labelled in one way only; leave the task out",
        ),
        ({"source": {}}, r"section \[data.source\] has no name; known: .*cifar10"),
        ({"source": {"name": "npz"}}, "data.source"),
    ],
)
def test_what_is_refused(file: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        labelled(file, **settings).split("train")


def test_data_without_labels_are_refused(tmp_path: Path) -> None:
    images = np.zeros((30, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "plain.npz", images=images)
    with pytest.raises(UserError, match=r"the train split of .*plain\.npz.* has no labels"):
        labelled(tmp_path / "plain.npz").split("train")
    np.savez(tmp_path / "none.npz", images=images, labels=np.append(np.full(29, -1), 0))
    with pytest.raises(UserError, match="has 1 labelled"):
        labelled(tmp_path / "none.npz", per_class=2).split("train")


class Shapes(BaseSamples):
    """Samples with a caption beside the image; the label is their number modulo the classes of the task."""

    def __init__(self, classes: int) -> None:
        self.classes = [f"class {number}" for number in range(classes)]
        self.note = "shapes"

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, 4, 4), index, dtype=torch.uint8)
        return Sample({"image": image, "caption": "a shape"}, label=index % len(self.classes))


class ShapeSource:
    """Two tasks, of two and of three classes."""

    Config: ClassVar[type[SourceSettings]] = SourceSettings

    def __init__(self, config: SourceSettings) -> None:
        self.kind: Any = "image"

    def fields(self) -> dict[str, Field]:
        return {"views.image": Field("image"), "views.caption": Field("text")}

    def split(self, name: str) -> Shapes:
        return Shapes(2)

    def tasks(self) -> Sequence[str]:
        return ["two", "three"]

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> Shapes:
        assert list(view_shape) == [3, 4, 4]
        return Shapes({"two": 2, "three": 3}[task])

    def controls(self, model: Any, role: str, tokens: bool) -> list[Any]:
        return []


class WordSource(ShapeSource):
    """The same, but its first view is a text."""

    def fields(self) -> dict[str, Field]:
        return {"views.caption": Field("text")}


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = plugins.registry().catalogue("data")
    monkeypatch.setitem(catalogue.classes, "shapes", ShapeSource)
    monkeypatch.setitem(catalogue.classes, "words", WordSource)


@pytest.mark.usefixtures("shapes")
def test_a_task_says_which_labels(file: Path) -> None:
    settings = {"source": {"name": "shapes"}, "per_class": 2, "view_shape": [3, 4, 4]}
    samples = labelled(file, **settings, task="three").split("train")
    assert [sample.label for sample in map(samples.__getitem__, range(6))].count(2) == 2
    assert list(samples.classes or ()) == ["class 0", "class 1", "class 2"]
    with pytest.raises(UserError, match="unknown task 'four'; known: three, two"):
        labelled(file, **settings, task="four")


@pytest.mark.usefixtures("shapes")
def test_of_named_values_the_first_view_is_taken_alone(file: Path) -> None:
    assert labelled(file, source={"name": "shapes"}).fields() is None
    with pytest.raises(UserError, match="the first view of the source 'words' is of the kind text"):
        labelled(file, source={"name": "words"}).fields()


def test_labels_are_read_from_samples_that_do_not_hold_them_apart() -> None:
    assert read_labels(Shapes(3)).tolist() == [0, 1, 2] * 4
    plain = type("Plain", (), {"classes": ["a"], "note": "", "__len__": lambda self: 2})()
    type(plain).__getitem__ = lambda self, index: (None, index)
    with pytest.raises(UserError, match=r"sample 1 of .* has the label 1"):
        read_labels(plain)


def test_labels_of_a_torchvision_folder_are_known_without_reading(tmp_path: Path) -> None:
    for name, count in (("cat", 2), ("dog", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").write_bytes(b"no image")
    assert read_labels(TorchvisionSamples(ImageFolder(tmp_path), "folder", 100)).tolist() == [0, 0, 1, 1, 1]
