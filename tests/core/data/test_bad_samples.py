"""Sources that give what is no sample, and processes that may open too few files: one line each."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core.data import ArraySamples, eval_loader, make_loader
from jepa_core.data import workers as module
from jepa_core.data.samples import class_number
from jepa_core.errors import UserError
from jepa_core.settings import TransformSettings

GOOD = torch.zeros(3, 8, 8, dtype=torch.uint8)
VIEW = (3, 8, 8)
SETTINGS = TransformSettings()


class Given:
    """A source's samples as a plugin might write them: the third one is the bad one."""

    classes: Any = ("a", "b")
    note = "the plugin"

    def __init__(self, sample: Any) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.sample if index == 2 else (GOOD, 0)


def of_training(samples: Any, view: tuple[int, ...] = VIEW, workers: int = 0) -> None:
    list(make_loader(samples, SETTINGS, view, 4, steps=range(1), seed=0, workers=workers))


def of_evaluation(samples: Any, view: tuple[int, ...] = VIEW) -> None:
    list(eval_loader(samples, SETTINGS, view, 4))


IMAGE_EXPECTED = "; expected a Pillow image, a uint8 tensor [3, h, w] or [T, 3, h, w], or a Recording"
LABEL_EXPECTED = "; expected -1 (none), or one of 2 classes from 0 on"


@pytest.mark.parametrize("read", [of_training, of_evaluation])
@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (GOOD, "is a Tensor; expected (image, label)"),
        ((GOOD,), "is a tuple of 1; expected (image, label)"),
        ((GOOD, 0, "name"), "is a tuple of 3; expected (image, label)"),
        ({"image": GOOD, "label": 0}, "is a dict; expected (image, label)"),
        (None, "is a NoneType; expected (image, label)"),
        ((None, 0), "is a NoneType" + IMAGE_EXPECTED),
        (("a.png", 0), "is a str" + IMAGE_EXPECTED),
        ((np.zeros((8, 8, 3), np.uint8), 0), "is a ndarray" + IMAGE_EXPECTED),
        ((GOOD.float(), 0), "is a tensor of float32 [3, 8, 8]" + IMAGE_EXPECTED),
        ((GOOD.permute(1, 2, 0), 0), "is a tensor of uint8 [8, 8, 3]" + IMAGE_EXPECTED),
        ((GOOD[0], 0), "is a tensor of uint8 [8, 8]" + IMAGE_EXPECTED),
        ((GOOD[:, :0], 0), "is a tensor [3, 0, 8]: it holds no pixels"),
        (
            (GOOD.expand(4, 3, 8, 8), 0),
            "is a clip [4, 3, 8, 8]; the encoder takes images, views of " + str([*VIEW]),
        ),
        ((GOOD, 1.0), "has the label 1" + LABEL_EXPECTED),
        ((GOOD, 0.5), "has the label 0.5" + LABEL_EXPECTED),
        ((GOOD, float("nan")), "has the label nan" + LABEL_EXPECTED),
        ((GOOD, "cat"), "has the label a str" + LABEL_EXPECTED),
        ((GOOD, None), "has the label a NoneType" + LABEL_EXPECTED),
        ((GOOD, torch.tensor(1.0)), "has the label a Tensor" + LABEL_EXPECTED),
        ((GOOD, torch.tensor([0, 1])), "has the label a Tensor" + LABEL_EXPECTED),
        ((GOOD, 2), "has the label 2" + LABEL_EXPECTED),
        ((GOOD, -2), "has the label -2" + LABEL_EXPECTED),
        ((GOOD, 2**70), f"has the label {2**70}" + LABEL_EXPECTED),
    ],
)
def test_a_bad_sample_is_one_line_that_names_it(read: Any, sample: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(Given(sample))
    assert str(error.value) == f"sample 2 of the plugin {message}"


def test_a_worker_says_the_same() -> None:
    with pytest.raises(UserError, match=r"^sample 2 of the plugin has the label 9; expected -1"):
        of_training(Given((GOOD, 9)), workers=1)


@pytest.mark.parametrize("label", [1, -1, True, np.int64(1), np.uint8(1), torch.tensor(1)])
@pytest.mark.parametrize("image", [GOOD, GOOD[:1], Image.new("RGB", (9, 9)), Image.new("L", (9, 9))])
def test_samples_as_they_should_be(image: Any, label: Any) -> None:
    for read in (of_training, of_evaluation):
        read(Given((image, label)))


def test_labels_without_classes_need_only_be_whole_numbers() -> None:
    assert class_number(10**6, None, "a sample") == 10**6
    with pytest.raises(UserError, match=r"has the label -2; expected a whole number from -1 on"):
        class_number(-2, None, "a sample")


class InMemory(Given):
    """A source of arrays, whose checks are made once for all samples."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __getitem__(self, index: int) -> Any:
        return self.images[index], int(self.labels[index])

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images, self.labels


@pytest.mark.parametrize("read", [of_training, of_evaluation])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD.expand(4, 3, 8, 8).float(), torch.zeros(4, dtype=torch.int64), "images of .*: float32"),
        (
            torch.zeros(4, 8, 8, 3, dtype=torch.uint8),
            torch.zeros(4, dtype=torch.int64),
            r"\[4, 8, 8, 3\]",
        ),
        (GOOD.expand(4, 3, 8, 8), torch.zeros(4), "labels of the plugin: float32"),
        (GOOD.expand(4, 3, 8, 8), torch.zeros(3, dtype=torch.int64), r"int64 \[3\]; exp"),
        (GOOD.expand(4, 3, 8, 8), torch.tensor([0, 1, 7, 0]), "sample 2 .* has the label 7"),
        (
            GOOD.expand(4, 3, 8, 8),
            torch.tensor([0, -5, 0, 0]),
            "sample 1 .* has the label -5",
        ),
    ],
)
def test_bad_arrays_are_one_line(read: Any, images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(InMemory(images, labels))


@pytest.fixture
def few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (24, 24))


@pytest.mark.usefixtures("few_open_files")
def test_too_few_open_files_for_workers_are_one_line() -> None:
    """Without it the workers' threads fill the terminal, and the parent waits for them for ever."""
    with pytest.raises(UserError, match=r"data\.workers is 2, and this process may have 24 files open"):
        list(module.iterate([1, 2, 3], [0, 1, 2], workers=2))
    assert list(module.iterate([1, 2, 3], [0, 1, 2], workers=0)) == [1, 2, 3]


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("Too many open files.")])
def test_files_that_run_out_later_are_the_same_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(module, "DataLoader", type("Loader", (), {"__init__": lambda *_, **__: None}))
    monkeypatch.setattr(module.DataLoader, "__iter__", fails, raising=False)
    with pytest.raises(UserError, match=r"ulimit -n\) or lower data\.workers"):
        list(module.iterate([1], [0], workers=1))


def test_in_memory_samples_are_good() -> None:
    samples = ArraySamples(GOOD.expand(4, 3, 8, 8), torch.tensor([0, 1, -1, 0]), ("a", "b"), "arrays")
    of_training(samples)
    of_evaluation(samples)
