"""Loss terms against closed forms in float64, on equal and on ragged sets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_core import IndexSet, MaskPlan, Tokens
from jepa_core.objectives import L1, MSE, Cosine, SmoothL1, VarianceCovariance
from jepa_core.types.step import Step

RAGGED = [[[0, 1, 2], [5]], [[3], [0, 4]]]
"""Token sets of two targets, two samples each."""
WIDTH = 6


def tokens(values: Tensor, at: IndexSet) -> Tokens:
    return Tokens(values, at, (2, 4))


def step_of(predictions: list[Tensor], targets: list[Tensor], contexts: list[Tokens] | None = None) -> Step:
    sets = [IndexSet.from_lists(lists) for lists in RAGGED]
    plan = MaskPlan((IndexSet.full(2, 8),), tuple(sets))
    pairs = [tuple(tokens(v, s) for v, s in zip(side, sets, strict=True)) for side in (predictions, targets)]
    return Step(pairs[0], pairs[1], tuple(contexts or ()), None, plan)


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, WIDTH, generator=generator, dtype=dtype) * 1.5 for n in (4, 3)]


def smooth_l1(d: float, beta: float) -> float:
    return d * d / (2 * beta) if abs(d) < beta else abs(d) - beta / 2


@pytest.mark.parametrize(
    ("objective", "law"),
    [
        (SmoothL1(SmoothL1.Config(name="a")), lambda d: smooth_l1(d, 1.0)),
        (SmoothL1(SmoothL1.Config(name="a", beta=0.25)), lambda d: smooth_l1(d, 0.25)),
        (L1(L1.Config(name="a")), abs),
        (MSE(MSE.Config(name="a")), lambda d: d * d),
    ],
)
def test_a_prediction_term_is_the_mean_over_every_element_of_every_pair(objective, law) -> None:
    """A mean of the pairs' means would differ: the pairs hold 4 and 3 tokens."""
    predictions, targets = drawn(0), drawn(1)
    differences = torch.cat([p - t for p, t in zip(predictions, targets, strict=True)]).flatten().tolist()
    expected = sum(map(law, differences)) / len(differences)
    assert objective(step_of(predictions, targets)).item() == pytest.approx(expected, rel=1e-12)


def test_pairs_count_alike_where_they_are_asked_to() -> None:
    predictions, targets = drawn(0), drawn(1)
    means = [(p - t).abs().mean().item() for p, t in zip(predictions, targets, strict=True)]
    by_pair = L1(L1.Config(name="a", average="pairs"))(step_of(predictions, targets)).item()
    assert by_pair == pytest.approx(sum(means) / 2, rel=1e-12)
    assert by_pair != pytest.approx((4 * means[0] + 3 * means[1]) / 7, rel=1e-3)


def test_cosine_is_the_mean_over_tokens() -> None:
    predictions, targets = drawn(2), drawn(3)
    angles = [
        1 - sum(a * b for a, b in zip(p, t, strict=True)) / math.hypot(*p) / math.hypot(*t)
        for p, t in zip(torch.cat(predictions).tolist(), torch.cat(targets).tolist(), strict=True)
    ]
    found = Cosine(Cosine.Config(name="a"))(step_of(predictions, targets))
    assert found.item() == pytest.approx(sum(angles) / len(angles), rel=1e-12)


def test_low_precision_predictions_are_compared_in_fp32() -> None:
    predictions = [p.bfloat16() for p in drawn(4)]
    targets = drawn(5, torch.float32)
    loss = MSE(MSE.Config(name="a"))(step_of(predictions, targets))
    exact = torch.cat([p.double() - t for p, t in zip(predictions, targets, strict=True)]).square().mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def spread(features: Tensor, std: float, variance: float, covariance: float) -> float:
    """VICReg's two terms, entry by entry, from torch.cov (divides by n - 1)."""
    cov = torch.cov(features.double().T)
    width = len(cov)
    hinges = [max(0.0, std - math.sqrt(cov[i, i] + 1e-4)) for i in range(width)]
    squares = [cov[i, j].item() ** 2 for i in range(width) for j in range(width) if i != j]
    return variance * sum(hinges) / width + covariance * sum(squares) / width


def contexts(lists: list[list[int]], seed: int) -> Tokens:
    at = IndexSet.from_lists(lists)
    generator = torch.Generator().manual_seed(seed)
    return tokens(torch.randn(at.total, WIDTH, generator=generator), at)


@pytest.mark.parametrize("on", ["mean", "tokens"])
def test_variance_and_covariance(on: str) -> None:
    """Two contexts, the second ragged with a sample that sees nothing: its mean is zero."""
    both = [contexts([[0, 1], [2, 3], [4, 7]], 6), contexts([[0, 1, 2], [], [5]], 7)]
    objective = VarianceCovariance(
        VarianceCovariance.Config(name="a", on=on, std=1.3, variance=2.0, covariance=0.7)  # type: ignore[arg-type]
    )
    found = objective(step_of(drawn(8), drawn(9), both))
    means = [torch.stack([part.mean(0) if len(part) else torch.zeros(WIDTH) for part in
                          c.values.split(c.at.lengths.tolist())]) for c in both]  # fmt: skip
    features = means if on == "mean" else [c.values for c in both]
    expected = sum(spread(f, 1.3, 2.0, 0.7) for f in features) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_collapsed_features_pay_and_are_pushed_apart() -> None:
    same = torch.ones(6, WIDTH) + 1e-3 * torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    same.requires_grad_()
    objective = VarianceCovariance(VarianceCovariance.Config(name="a", on="tokens"))
    loss = objective(step_of(drawn(0), drawn(1), [tokens(same, IndexSet.full(2, 3))]))
    assert loss.item() == pytest.approx(1.0, abs=0.02)
    loss.backward()
    assert same.grad is not None
    moved = same.detach() - same.grad
    assert moved.std(0).mean() > same.detach().std(0).mean()
