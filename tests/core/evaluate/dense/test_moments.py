"""A ridge from sums is the ridge of all samples, and its error on a part is that of its predictions."""

from __future__ import annotations

import pytest
import torch

from jepa_core.evaluate.dense.moments import Moments, fit_streamed
from jepa_core.evaluate.regression import STRENGTHS, _fits


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=draw).double() * torch.tensor([1, 10, 0.1, 3, 1]) + 20
    y = x @ torch.tensor([1.0, -0.2, 3.0, 0.0, 0.5]).double() + 3 + torch.randn(count, generator=draw)
    return x, y


@pytest.mark.parametrize("strength", [1e-5, 0.1, 10.0])
def test_sums_in_batches_give_the_ridge_of_all_samples(strength: float) -> None:
    x, y = data(200, 1)
    streamed = (Moments.of(x[:70], y[:70]) + Moments.of(x[70:], y[70:])).fit(strength)
    direct = _fits(x, y[:, None], (strength,))[0]
    new, _ = data(50, 2)
    assert torch.allclose(streamed(new), direct(new), atol=1e-8)


def test_the_error_from_sums_is_that_of_the_predictions() -> None:
    x, y = data(200, 1)
    ridge = Moments.of(x, y).fit(0.01)
    new, truth = data(60, 2)
    expected = (ridge(new)[:, 0] - truth).square().mean().item()
    assert Moments.of(new, truth).error_of(ridge) == pytest.approx(expected, rel=1e-6)


def test_the_strength_is_that_which_errs_least_on_the_judged_part() -> None:
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(24, 20, generator=draw).double(), torch.randn(24, generator=draw).double()
    part, judged = Moments.of(x[:16], y[:16]), Moments.of(x[16:], y[16:])
    errors = [(part.fit(s)(x[16:])[:, 0] - y[16:]).square().mean().item() for s in STRENGTHS]
    assert fit_streamed(part, judged).strength == STRENGTHS[errors.index(min(errors))]
    assert min(errors) < errors[0], "noise alone asks for a strong ridge"


def test_a_constant_feature_says_nothing() -> None:
    x, y = data(50, 1)
    x[:, 2] = 7
    ridge = Moments.of(x, y).fit(0.01)
    assert ridge(x).isfinite().all()
    assert ridge.scale[2] == 0
