"""Cross-entropy with shares of classes: the formula, smoothing, mixtures."""

from __future__ import annotations

import pytest
import torch

from jepa_core.objectives import CrossEntropy
from jepa_core.types import IndexSet, MaskPlan, Tokens
from jepa_core.types.step import Step


def step_of(logits: torch.Tensor, shares: torch.Tensor) -> Step:
    at = IndexSet.full(len(logits), 1)
    return Step((Tokens(logits, at, (1,)),), (Tokens(shares, at, (1,)),), (), None, MaskPlan())


def loss(logits: torch.Tensor, shares: torch.Tensor, smoothing: float = 0.0) -> float:
    term = CrossEntropy(CrossEntropy.Config(name="cross_entropy", label_smoothing=smoothing))
    return float(term(step_of(logits, shares)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_formula(smoothing: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    shares = torch.rand(6, 4, generator=draw, dtype=torch.float64)
    shares = shares / shares.sum(1, keepdim=True)
    smooth = (1 - smoothing) * shares + smoothing / 4
    expected = -(smooth * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()
    assert loss(logits, shares, smoothing) == pytest.approx(float(expected), rel=1e-12)


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    assert loss(torch.zeros(3, 8), torch.eye(8)[:3]) == pytest.approx(torch.tensor(8.0).log().item())


def test_nothing_predicted_is_refused() -> None:
    term = CrossEntropy(CrossEntropy.Config(name="cross_entropy"))
    with pytest.raises(ValueError, match="made no predictions"):
        term(Step((), (), (), None, MaskPlan()))
