"""A ridge from sums is the ridge of all samples, and its error on a part is that of its predictions."""

from __future__ import annotations

import pytest
import torch

from jepa_core.evaluate.dense.moments import Moments, PlacedMoments, fit_placed
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
    everywhere = torch.ones(24, 1, dtype=torch.bool)
    part, judged = (
        PlacedMoments.of(x[rows, None], y[rows, None], everywhere[rows])
        for rows in (slice(16), slice(16, 24))
    )
    inner = Moments.of(x[:16], y[:16])
    errors = [(inner.fit(s)(x[16:])[:, 0] - y[16:]).square().mean().item() for s in STRENGTHS]
    assert fit_placed(part, judged).ridge.strength == STRENGTHS[errors.index(min(errors))]
    assert min(errors) < errors[0], "noise alone asks for a strong ridge"


def test_a_constant_feature_says_nothing() -> None:
    x, y = data(50, 1)
    x[:, 2] = 7
    ridge = Moments.of(x, y).fit(0.01)
    assert ridge(x).isfinite().all()
    assert ridge.scale[2] == 0


def placed(seed: int, images: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens [B, 3, 2] and numbers [B, 3] whose places differ by far more than anything else."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 3, 2, generator=draw) + torch.tensor([[0.0, 0.0], [5.0, 1.0], [2.0, 9.0]])
    offsets = torch.tensor([100.0, -50.0, 7.0])
    y = offsets + x @ torch.tensor([2.0, -1.0]) + 0.1 * torch.randn(images, 3, generator=draw)
    return x, y, torch.rand(images, 3, generator=draw) < 0.8


def test_sums_around_the_means_of_places_are_those_of_the_differences() -> None:
    x, y, known = placed(1, 40)
    parts = [PlacedMoments.of(x[s], y[s], known[s]) for s in (slice(0, 15), slice(15, 40))]
    a, b = torch.randn(3, 2).double(), torch.randn(3).double()
    summed = (parts[0] + parts[1]).around(a, b)
    direct = Moments.of((x - a)[known], (y - b)[known])
    for name in ("count", "x", "y", "xx", "xy", "yy"):
        one, other = (torch.as_tensor(getattr(moments, name)) for moments in (summed, direct))
        assert torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-3), name
    means = (parts[0] + parts[1]).means()[1]
    assert means[1].item() == pytest.approx(y[:, 1][known[:, 1]].mean().item(), rel=1e-5)


def test_a_ridge_with_an_offset_at_each_place_finds_what_is_beside_the_places() -> None:
    x, y, known = placed(2, 200)
    ridge = fit_placed(
        PlacedMoments.of(x[:150], y[:150], known[:150]), PlacedMoments.of(x[150:], y[150:], known[150:])
    )
    weight = ridge.ridge.weight[:, 0] * ridge.ridge.scale
    assert weight.tolist() == pytest.approx([2, -1], abs=0.05)
    new, truth, _ = placed(3, 30)
    assert (ridge.y + ridge(new) - truth).square().mean().sqrt() < 0.15


def test_a_place_that_never_has_a_number_gets_the_mean_of_all() -> None:
    x, y, known = placed(2, 50)
    known[:, 1] = False
    means = PlacedMoments.of(x, y, known).means()[1]
    assert means[1].item() == pytest.approx(y[known].mean().item(), rel=1e-5)
