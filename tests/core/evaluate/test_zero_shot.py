"""Zero-shot scores from embeddings of samples and of class names."""

from __future__ import annotations

import pytest
import torch

from jepa_core.evaluate.zero_shot import score_classes


def test_a_sample_gets_the_nearest_class() -> None:
    classes = torch.eye(12)
    labels = torch.arange(24) % 12
    samples = 5 * classes[labels]
    samples[0] = classes[3] + 0.9 * classes[0]
    scores = score_classes(samples, classes, labels)
    assert list(scores) == ["top1", "top5"]
    assert scores["top1"].value == pytest.approx(23 / 24)
    assert scores["top5"].value == 1
    assert (scores["top1"].chance, scores["top5"].chance) == (1 / 12, 5 / 12)


def test_few_classes_have_no_top5_and_one_embedding_for_all_is_at_chance() -> None:
    scores = score_classes(torch.ones(9, 4), torch.ones(3, 4), torch.arange(9) % 3)
    assert list(scores) == ["top1"]
    assert scores["top1"].value == pytest.approx(1 / 3)
    assert scores["top1"].unit == "share"
