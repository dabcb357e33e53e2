"""The sine-cosine tables against the formula written entry by entry."""

import math

import pytest
import torch

from jepa_core.errors import UserError
from jepa_core.nn.sincos import sincos


def wave(position: int, share: int) -> list[float]:
    """F/2 sines, then F/2 cosines of position / 10000^(k / (F/2))."""
    half = share // 2
    angles = [position / 10000 ** (k / half) for k in range(half)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (1, 4)])
def test_rank_2_is_column_first_then_row(grid):
    rows, columns = grid
    expected = [wave(c, 12) + wave(r, 12) for r in range(rows) for c in range(columns)]
    assert (sincos(grid, 24) - torch.tensor(expected)).abs().max() < 1e-7


def test_rank_1_takes_the_whole_width():
    expected = torch.tensor([wave(p, 10) for p in range(7)])
    assert (sincos((7,), 10) - expected).abs().max() < 1e-7


@pytest.mark.parametrize("width", [24, 16, 10])
def test_rank_3_shares_evenly_and_cuts(width):
    share = 2 * math.ceil(width / 6)
    expected = [
        (wave(t, share) + wave(r, share) + wave(c, share))[:width]
        for t in range(2)
        for r in range(3)
        for c in range(4)
    ]
    assert (sincos((2, 3, 4), width) - torch.tensor(expected)).abs().max() < 1e-7


def test_rounded_once_from_float64():
    exact = sincos((32, 32), 1280, dtype=torch.float64)
    assert torch.equal(sincos((32, 32), 1280), exact.float())
    assert torch.equal(sincos((32, 32), 1280, dtype=torch.bfloat16), exact.bfloat16())


def test_scale_multiplies():
    exact = 0.1 * sincos((4, 4), 16, dtype=torch.float64)
    assert torch.equal(sincos((4, 4), 16, 0.1), exact.float())


def test_cached_by_grid_and_usable_in_training_after_inference():
    with torch.inference_mode():
        first = sincos((5, 3), 8)
    assert not first.is_inference()
    assert sincos((5, 3), 8) is first
    assert sincos((3, 5), 8) is not first


@pytest.mark.parametrize(
    ("grid", "width", "message"),
    [
        ((4, 4), 10, "sine-cosine positions of a grid of 2 axes need a width that divides by 4; got 10"),
        ((9,), 5, "sine-cosine positions of a grid of 1 axes need a width that divides by 2; got 5"),
        ((2, 2, 2), 8, r"a width of 8 leaves no dimension for the last of the 3 axes of grid \(2, 2, 2\)"),
        ((), 8, r"a token grid has at least one axis, each of 1 or more; got \(\)"),
        ((4, 0), 8, r"got \(4, 0\)"),
    ],
)
def test_widths_that_cannot_be_shared(grid, width, message):
    with pytest.raises(UserError, match=message):
        sincos(grid, width)
