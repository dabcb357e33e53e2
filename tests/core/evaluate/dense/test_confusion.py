"""Accuracy and mean IoU by hand."""

from __future__ import annotations

import pytest
import torch

from jepa_core.evaluate.dense.confusion import Confusion
from jepa_core.evaluate.dense.segmentation import majority


def test_one_matrix_over_the_split() -> None:
    matrix = Confusion(3)
    matrix.add(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1]]))
    matrix.add(torch.tensor([[1, 0, 2, 2]]), torch.tensor([[1, 1, -1, -1]]))
    assert matrix.counts.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert matrix.accuracy().value == pytest.approx(4 / 6)
    assert matrix.ious()[:2].tolist() == pytest.approx([2 / 4, 2 / 4])
    assert matrix.ious()[2].isnan(), "a class that is neither there nor guessed"
    assert matrix.mean_iou().value == pytest.approx(0.5)


def test_the_error_of_the_accuracy_is_over_images() -> None:
    matrix = Confusion(2)
    for right in (1, 0, 1, 1):
        matrix.add(torch.full((1, 100), right), torch.ones(1, 100, dtype=torch.int64))
    assert matrix.accuracy().se == pytest.approx((0.75 * 0.25 / 4) ** 0.5), (
        "100 pixels of an image are one draw"
    )


def test_the_commonest_class_of_a_patch() -> None:
    patches = torch.tensor([[[2, 2, 1, -1], [-1, -1, -1, 0]], [[0, 1, 1, 0], [-1, -1, -1, -1]]])
    assert majority(patches, 3).tolist() == [[2, 0], [0, -1]]
