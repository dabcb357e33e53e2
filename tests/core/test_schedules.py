"""Schedules against I-JEPA's formulas, written out as the release steps through them (facts §3.6, §3.7)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_core.schedules import between, warmup_cosine

TOTAL, WARMUP, START, PEAK, FINAL = 300, 40, 2e-4, 1e-3, 1e-6


def released_rates() -> list[float]:
    """The learning rate of each step, as a scheduler that is stepped before each forward pass gives it."""
    rates = []
    for k in range(1, TOTAL + 1):
        if k < WARMUP:
            rates.append(START + (PEAK - START) * k / WARMUP)
        else:
            share = (k - WARMUP) / (TOTAL - WARMUP)
            rates.append(FINAL + (PEAK - FINAL) * (1 + math.cos(math.pi * share)) / 2)
    return rates


def test_learning_rate_of_every_step_is_the_releases() -> None:
    mine = [warmup_cosine(step, TOTAL, WARMUP, START, PEAK, FINAL) for step in range(TOTAL)]
    assert mine == pytest.approx(released_rates(), rel=1e-12)


def test_learning_rate_peaks_where_the_warm_up_ends_and_ends_at_the_final_rate() -> None:
    assert warmup_cosine(WARMUP - 1, TOTAL, WARMUP, START, PEAK, FINAL) == PEAK
    assert warmup_cosine(TOTAL - 1, TOTAL, WARMUP, START, PEAK, FINAL) == pytest.approx(FINAL)


def test_learning_rate_never_falls_below_the_final_one() -> None:
    """Steps after the end would climb the cosine again."""
    assert warmup_cosine(TOTAL, TOTAL, WARMUP, START, PEAK, FINAL) >= FINAL
    assert warmup_cosine(5, 10, 10, 0.0, 1e-3, 2e-3) == pytest.approx(6e-4)
    assert warmup_cosine(9, 10, 10, 0.0, 1e-3, 2e-3) == 2e-3


def test_without_warm_up_the_cosine_starts_at_once() -> None:
    assert warmup_cosine(0, 4, 0, 0.0, 1.0, 0.0) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_momentum_climbs_evenly_by_accumulated_additions() -> None:
    m, momenta = 0.996, []
    for _ in range(TOTAL):
        momenta.append(m)
        m += (1.0 - 0.996) / TOTAL
    assert [between(i, TOTAL, 0.996, 1.0, "linear") for i in range(TOTAL)] == pytest.approx(
        momenta, rel=1e-12
    )


def test_cosine_between() -> None:
    expected = [0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * k / TOTAL)) / 2 for k in range(TOTAL + 1)]
    assert [between(k, TOTAL, 0.04, 0.4, "cosine") for k in range(TOTAL + 1)] == pytest.approx(
        expected, rel=1e-12
    )


def test_constant_stays() -> None:
    assert {between(step, TOTAL, 0.9, 0.1, "constant") for step in (0, 7, TOTAL)} == {0.9}


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_after_the_end_nothing_moves(shape: str) -> None:
    assert between(TOTAL + 50, TOTAL, 0.3, 0.7, shape) == pytest.approx(0.7)  # type: ignore[arg-type]


@given(st.integers(1, 10**6), st.data())
def test_values_stay_within_their_ends_whatever_the_step(total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total))
    warmup = data.draw(st.integers(0, total))
    assert FINAL <= warmup_cosine(step, total, warmup, START, PEAK, FINAL) <= PEAK
    for shape in ("linear", "cosine"):
        assert 0.996 <= between(step, total, 0.996, 1.0, shape) <= 1.0  # type: ignore[arg-type]
