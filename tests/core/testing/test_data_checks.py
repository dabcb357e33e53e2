"""`check_probe` and `check_source`: each property is broken once on purpose; core's own sources conform."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import testing
from jepa_core.data import CorruptSample
from jepa_core.data.sources import cifar10
from jepa_core.data.splits import check_split
from jepa_core.evaluate import KNN
from jepa_core.settings import SourceSettings
from jepa_core.testing import Failed, examine, suites
from tests.core.data.sources.test_webdataset import picture, write_shard

BROKEN: dict[tuple[str, str], type] = {}


def breaks(kind: str, prop: str):
    """Notes a class as one that breaks this property of its kind."""

    def note(component: type) -> type:
        BROKEN[kind, prop] = component
        return component

    return note


class Pictures:
    """Random pictures of two classes, of which the fourth is damaged."""

    classes = ("cat", "dog")
    note = "made up"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index == 3:
            raise CorruptSample(f"{index}.png", "truncated", "truncated")
        draw = torch.Generator().manual_seed(100 * self.seed + index)
        return torch.randint(256, (3, 8, 8), generator=draw, dtype=torch.uint8), index % 2


class Sound:
    """A source of pictures."""

    class Config(SourceSettings):
        """It has no settings of its own."""

    samples: Callable[[int], Any] = Pictures

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, name: str):
        check_split(name)
        return self.samples(("train", "val", "test").index(name))


def source_of(samples: type) -> type:
    return type("Made", (Sound,), {"samples": samples, "__doc__": "A source."})


@breaks("data", "splits")
class AnySplit(Sound):
    def split(self, name):
        return Pictures(len(name))


@breaks("data", "samples")
class Floats(Pictures):
    def __getitem__(self, index):
        pixels, label = super().__getitem__(index)
        return pixels / 255, label


@breaks("data", "labels")
class FromOne(Pictures):
    def __getitem__(self, index):
        pixels, label = super().__getitem__(index)
        return pixels, label + 1


@breaks("data", "by index")
class Augments(Pictures):
    def __getitem__(self, index):
        pixels, label = super().__getitem__(index)
        return pixels.flip(-1) if np.random.rand() < 0.5 else pixels, label


@breaks("data", "travels")
class HoldsAGenerator(Pictures):
    def __init__(self, seed):
        super().__init__(seed)
        self.lines = (line for line in "read one by one")


@breaks("data", "held out")
class SameForAll(Pictures):
    def __init__(self, seed):
        super().__init__(0)


@breaks("data", "corrupt")
class NamesAnother(Pictures):
    tried = 0

    def __getitem__(self, index):
        if index == 3:
            self.tried += 1
            raise CorruptSample(f"{index}.png", f"try {self.tried}")
        return super().__getitem__(index)


@breaks("probe", "scores")
class NamesNoScore(KNN):
    headline = "accuracy"


@breaks("probe", "tells apart")
class GuessesTheFirst(KNN):
    def __call__(self, train, held_out, classes):
        return {"top1": held_out[1].eq(0).double().mean().item()}


@breaks("probe", "chance on noise")
class CountsTwoGuesses(KNN):
    def __call__(self, train, held_out, classes):
        second = super().__call__((train[0], (train[1] + 1) % classes), held_out, classes)["top1"]
        return {"top1": super().__call__(train, held_out, classes)["top1"] + second}


@breaks("probe", "labels unseen")
class FitsOnBoth(KNN):
    def __call__(self, train, held_out, classes):
        both = tuple(torch.cat(parts) for parts in zip(train, held_out, strict=True))
        return super().__call__(both, held_out, classes)


@breaks("probe", "samples alone")
class CentresTheHeldOut(KNN):
    def __call__(self, train, held_out, classes):
        features, labels = held_out
        return super().__call__(train, (features - features[:50].mean(0), labels), classes)


@breaks("probe", "repeatable")
class AddsNoise(KNN):
    def __call__(self, train, held_out, classes):
        features, labels = held_out
        return super().__call__(train, (features + torch.randn_like(features), labels), classes)


@breaks("probe", "inputs as they are")
class ScalesInPlace(KNN):
    def __call__(self, train, held_out, classes):
        train[0].mul_(2)
        return super().__call__(train, held_out, classes)


def component(kind: str, prop: str) -> type:
    broken = BROKEN[kind, prop]
    broken.__doc__ = broken.__doc__ or "Broken on purpose."
    return source_of(broken) if issubclass(broken, Pictures) else broken


def failing(found) -> dict[str, str]:
    return {outcome.property: outcome.said for outcome in found if outcome.state == "fails"}


@pytest.mark.parametrize(("kind", "sound"), [("data", Sound), ("probe", KNN)])
def test_a_sound_component_has_every_property(kind: str, sound: type) -> None:
    assert [(o.property, o.said) for o in examine(kind, sound) if o.state != "holds"] == []


@pytest.mark.parametrize(("kind", "prop"), BROKEN)
def test_a_broken_property_is_named(kind: str, prop: str) -> None:
    broken = component(kind, prop)
    assert failing(examine(kind, broken))[prop]
    check = {"data": testing.check_source, "probe": testing.check_probe}[kind]
    with pytest.raises(Failed, match=f"{kind} {broken.__name__}: {prop}: "):
        check(broken)


def test_every_property_is_broken_once() -> None:
    asked = {
        (kind, p.__name__.replace("_", " ")) for kind in ("data", "probe") for p in suites.SUITES[kind][1]
    }
    assert asked == set(BROKEN)


@pytest.mark.parametrize(
    ("kind", "prop", "said"),
    [
        ("data", "splits", "a split 'tset' is no error"),
        ("data", "samples", "sample 0 of train is torch.float32; expected uint8"),
        ("data", "labels", "sample 1 of train has label 2; there are 2 classes"),
        ("data", "by index", "draws from the global randomness of NumPy"),
        ("data", "held out", "sample 0 of val is sample 0 of train"),
        ("probe", "scores", "its headline 'accuracy' is not among its scores: top1, top1_se"),
        ("probe", "tells apart", "classes ten deviations apart are guessed right in 25.0%"),
        ("probe", "inputs as they are", "features and labels after the probe: values differ by up to"),
    ],
)
def test_what_is_said_tells_what_broke(kind: str, prop: str, said: str) -> None:
    assert said in failing(examine(kind, component(kind, prop)))[prop]


def test_a_training_split_that_is_refused_fails_with_what_the_user_would_read(tmp_path: Path) -> None:
    broken = failing(examine("data", "npz", path=str(tmp_path / "no.npz")))
    assert set(broken) == {p.__name__.replace("_", " ") for p in suites.SUITES["data"][1]}
    assert broken["splits"].startswith("UserError: data.path ")


def test_an_error_that_is_no_corrupt_sample_is_the_sources_fault() -> None:
    class Raises(Pictures):
        def __getitem__(self, index):
            return super().__getitem__(index) if index != 3 else 1 / 0

    assert failing(examine("data", source_of(Raises)))["samples"] == "ZeroDivisionError: division by zero"


def folder(place: Path) -> dict[str, Any]:
    for number in range(24):
        path = place / "images" / ("ab"[number % 2]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (9 * number, 0, 0)).save(path)
    path.write_bytes(b"no image")
    return {"path": str(place / "images"), "test_share": 0.3}


def npz(place: Path) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    np.savez(place / "made.npz", images=images, labels=np.arange(30) % 3)
    return {"path": str(place / "made.npz")}


def webdataset(place: Path) -> dict[str, Any]:
    write_shard(place / "train.tar", range(30))
    content = bytearray((place / "train.tar").read_bytes())
    content[512:520] = b"________"
    (place / "train.tar").write_bytes(content)
    return {"path": str(place / "train.tar")}


def cifar(place: Path) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    counts = {"train": 50, "test": 20}
    arrays = {f"{k}_images": draw.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for k, n in counts.items()}
    labels = {f"{part}_labels": np.arange(count) % 10 for part, count in counts.items()}
    (place / "cache").mkdir()
    np.savez(place / "cache/cifar10.npz", **arrays, **labels)
    return {}


def huggingface(place: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = [{"bytes": picture(n) if n != 4 else b"no image", "path": None} for n in range(20)]
    data = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 10}, features=features)
    datasets.DatasetDict({"train": data}).save_to_disk(place / "saved")
    return {"path": str(place / "saved")}


def fake_data(place: Path) -> dict[str, Any]:
    return {"dataset": "FakeData", "options": {"size": 20, "image_size": [3, 8, 8], "num_classes": 4}}


@pytest.mark.parametrize(
    ("name", "make", "damaged"),
    [
        ("cifar10", cifar, False),
        ("folder", folder, True),
        ("huggingface", huggingface, True),
        ("npz", npz, False),
        ("webdataset", webdataset, True),
        ("torchvision", fake_data, False),
    ],
)
def test_cores_own_sources_conform(name: str, make, damaged: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 50, "test": 20})
    monkeypatch.setattr(cifar10, "VAL", 10)
    found = examine("data", name, **make(tmp_path))
    assert failing(found) == {}
    (corrupt,) = [outcome for outcome in found if outcome.property == "corrupt"]
    assert corrupt.state == ("holds" if damaged else "not asked")
