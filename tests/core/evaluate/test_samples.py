"""The samples of an evaluation: labels are checked and keep their sample; what was read has a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core.data import TransformSettings
from jepa_core.data.images import CorruptSample
from jepa_core.data.samples import ArraySamples
from jepa_core.errors import UserError
from jepa_core.evaluate.samples import SplitLoader, choose_samples

SHAPE = (3, 8, 8)


class Pictures:
    """Twelve grey pictures; the items of some are as the test wants them."""

    classes: Sequence[str] | None = ("a", "b", "c")
    note = "made up"

    def __init__(self, items: dict[int, Any] | None = None) -> None:
        self.items = items or {}

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        found = self.items.get(index, ...)
        if isinstance(found, Exception):
            raise found
        if found is not ...:
            return found
        return torch.full((3, 8, 8), 20 * index, dtype=torch.uint8), index % 3

    def keys(self) -> list[str]:
        return [f"{index}.png" for index in range(12)]


IMAGE = torch.zeros(3, 8, 8, dtype=torch.uint8)


def loader(samples: Any, index: Tensor | None = None, workers: int = 0) -> SplitLoader:
    chosen = torch.arange(len(samples)) if index is None else index
    return SplitLoader(samples, TransformSettings(), SHAPE, 5, workers, chosen, max_corrupt=0.5)


@pytest.mark.parametrize("label", [1, np.int64(1), np.uint8(1), torch.tensor(1), True])
def test_whole_numbers_of_any_kind_are_labels(label: Any) -> None:
    batches = loader(Pictures({4: (IMAGE, label)}))
    assert torch.cat([labels for _, labels in batches])[4] == 1


@pytest.mark.parametrize(
    "label", [3, -2, 1.0, 0.7, "b", None, 2**70, np.float32(1), torch.tensor(1.5), torch.tensor([0, 1])]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_is_no_class_is_a_line(label: Any, workers: int) -> None:
    with pytest.raises(UserError, match=r"^sample 4 of made up has the label .+; expected .+$"):
        list(loader(Pictures({4: (IMAGE, label)}), workers=workers))


@pytest.mark.parametrize(
    ("item", "shown"),
    [((IMAGE,), "tuple of 1"), ((IMAGE, 1, 2), "tuple of 3"), (7, "int"), (None, "NoneType")],
)
def test_a_sample_that_is_no_pair_is_a_line(item: Any, shown: str) -> None:
    with pytest.raises(UserError, match=f"sample 4 of made up is a {shown}; expected"):
        list(loader(Pictures({4: item})))


@pytest.mark.parametrize(("dtype", "label"), [(torch.int64, 9), (torch.float32, 0.5), (torch.float32, 1.0)])
def test_labels_in_memory_are_checked_too(dtype: torch.dtype, label: float) -> None:
    images, labels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    samples = ArraySamples(images, labels, ["a", "b"], "made up")
    samples.labels = labels.to(dtype)
    samples.labels[3] = label
    with pytest.raises(UserError, match=r"sample 3 of made up has the label 9|labels of made up: float32"):
        list(loader(samples))


def test_labels_keep_their_sample_where_others_are_corrupt() -> None:
    corrupt = CorruptSample("3.png", "cut")
    batches = loader(Pictures({3: corrupt, 4: corrupt}), torch.arange(1, 11))
    labels = torch.cat([labels for _, labels in batches])
    assert batches.positions.tolist() == [1, 2, 5, 6, 7, 8, 9, 10]
    assert labels.tolist() == batches.labels.tolist() == [1, 2, 2, 0, 1, 2, 0, 1]
    assert batches.names()[2] == "5.png"


def fingerprint(samples: Any, index: Tensor | None = None) -> str:
    batches = loader(samples, index)
    list(batches)
    return batches.fingerprint()


def test_the_fingerprint_is_that_of_names_and_labels() -> None:
    whole = fingerprint(Pictures())
    assert whole == fingerprint(Pictures())
    assert whole != fingerprint(Pictures({4: (IMAGE, 2)}))
    assert whole != fingerprint(Pictures(), torch.arange(11))


def test_images_in_memory_are_told_apart_by_their_pixels() -> None:
    images, labels = torch.randint(255, (2, 6, 3, 8, 8), dtype=torch.uint8), torch.zeros(6, dtype=torch.long)
    first, other = (fingerprint(ArraySamples(part, labels, ["a"], "")) for part in images)
    assert first != other
    assert first == fingerprint(ArraySamples(images[0].clone(), labels, ["a"], "elsewhere"))


def test_samples_are_spaced_evenly_or_drawn() -> None:
    assert choose_samples(10, 5, None).tolist() == [0, 2, 4, 6, 8]
    assert choose_samples(10, None, None).tolist() == list(range(10))
    drawn = choose_samples(1000, None, 100)
    assert len(drawn) == len(drawn.unique()) == 100
    assert torch.equal(drawn, drawn.sort().values)
    assert not torch.equal(drawn, choose_samples(1000, 100, None))
    assert torch.equal(drawn, choose_samples(1000, None, 100))
    assert choose_samples(10, None, 50).tolist() == list(range(10))
