"""Retrieval: exact on small cases, at chance without knowledge, errors as in simulation."""

from __future__ import annotations

import math

import pytest
import torch

from jepa_core.errors import UserError
from jepa_core.evaluate.pairs import comparison_of, cosine, embed_all, hits
from jepa_core.evaluate.retrieval import score_pairs
from jepa_core.evaluate.score_tables import MetricScore, share_score


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ranks_of_a_case_done_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.7, 0.1], [0.9, 0.8, 0.1]])
    right = torch.arange(3)
    compare = lambda first, second: similarity[first[:, 0].long()]  # noqa: E731
    rows = torch.arange(3.0)[:, None]
    assert hits(rows, rows, right, 1, compare).tolist() == [1, 0, 0]
    assert hits(rows, rows, right, 2, compare).tolist() == [1, 1, 0]
    assert hits(rows, rows, right, 5, compare).tolist() == [1, 1, 1]


@pytest.mark.parametrize("width", [1, 7, 64])
def test_one_embedding_for_all_scores_exactly_chance(width: int) -> None:
    same = normal(1, width).expand(37, width)
    scores = score_pairs(same, same)
    for name, score in scores.items():
        assert score.value == pytest.approx(score.chance), name
    assert scores["r1"].chance == pytest.approx(1 / 37)
    assert scores["r5"].chance == pytest.approx(5 / 37)


def test_ties_share_the_place() -> None:
    """Two captions are equal: each of their pictures has one chance in two."""
    captions = torch.eye(4)[[0, 0, 1, 2]]
    assert hits(captions, captions, torch.arange(4), 1).tolist() == [0.5, 0.5, 1, 1]


def test_pairs_that_agree_are_all_retrieved_and_the_directions_are_named() -> None:
    x = normal(20, 8)
    scores = score_pairs(x, x + 1e-3 * normal(20, 8, seed=1), ("image", "caption"))
    assert list(scores) == [
        "r1",
        "r5",
        "image_to_caption_r1",
        "image_to_caption_r5",
        "caption_to_image_r1",
        "caption_to_image_r5",
    ]
    assert all(score.value == 1 and score.se == 0 and score.unit == "share" for score in scores.values())


def test_the_directions_are_told_apart() -> None:
    """All pictures are nearest to one caption; not every caption is nearest to another picture."""
    pictures = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2]])
    captions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = score_pairs(pictures, captions, ("image", "caption"))
    assert scores["image_to_caption_r1"].value == pytest.approx(1 / 3)
    # captions: the first is right; the second is nearest to the third picture; the third to the third
    assert scores["caption_to_image_r1"].value == pytest.approx(2 / 3)
    assert scores["r1"].value == pytest.approx(1 / 2)


@pytest.mark.parametrize("compared", ["shuffled", "unrelated"])
def test_without_knowledge_it_is_at_chance(compared: str) -> None:
    """Over many draws the mean is within four of its standard errors of k / n."""
    count, draws = 50, 100
    for k in (1, 5):
        values = []
        for seed in range(draws):
            x = normal(count, 6, seed=seed)
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
            other = x[order] if compared == "shuffled" else normal(count, 6, seed=1000 + seed)
            values.append(score_pairs(x, other)[f"r{k}"].value)
        spread = torch.tensor(values)
        error = float(spread.std()) / math.sqrt(draws)
        assert abs(float(spread.mean()) - k / count) < 4 * error


def test_the_standard_error_is_that_of_a_simulation() -> None:
    """Of shares that are hit with p = .3: the mean of the errors is the deviation of the values."""
    draw = torch.Generator().manual_seed(2)
    scores = [share_score((torch.rand(80, generator=draw) < 0.3).double().tolist(), 0.1) for _ in range(400)]
    deviation = torch.tensor([score.value for score in scores]).std().item()
    mean_error = sum(score.se or 0 for score in scores) / len(scores)
    assert mean_error == pytest.approx(deviation, rel=0.1)
    assert share_score([1, 0, 0, 1], 0.5) == MetricScore(value=0.5, se=0.25, unit="share", chance=0.5)


def test_many_queries_are_compared_in_parts_with_the_same_result() -> None:
    x, y = normal(1200, 5), normal(1200, 5, seed=1)
    expected = (cosine(x, y) > cosine(x, y).diagonal()[:, None]).sum(1) < 5
    assert torch.equal(hits(x, y, torch.arange(1200), 5) > 0.5, expected)


class Embedder:
    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def embed(self, views: object) -> dict[str, torch.Tensor]:
        return {"image": self.values}


class Comparing(Embedder):
    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(first, second)


def test_a_model_compares_in_its_own_way() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert hits(x, x, torch.arange(2), 1, comparison_of(Embedder(x))).tolist() == [0.5, 0.5]
    assert hits(x, x, torch.arange(2), 1, comparison_of(Comparing(x))).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.ones(3, 2, 4), r"embeddings of the view 'image' are \[3, 2, 4\]; expected \[B, E\]"),
        (
            torch.full((3, 2), math.nan),
            "embeddings of the view 'image' are not finite: the model has diverged",
        ),
    ],
    ids=["tokens", "not finite"],
)
def test_embeddings_that_cannot_be_compared_are_one_line(values: torch.Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        embed_all(Embedder(values), [{}])
