"""The statistics against cases worked out by hand, against scipy, and against every pattern of signs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jepa_core.study.across import across, interquartile_mean, probability_of_improvement
from jepa_core.study.statistics import (
    compare,
    correlation,
    detectable_effect,
    holm,
    sign_flip_p,
    smallest_p,
    t_interval,
)

Numbers = st.lists(st.floats(-5, 5, allow_nan=False), min_size=2, max_size=9)


def test_a_case_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sd 1, interval 2 ± 4.3027 / √3; two of eight patterns are as far."""
    found = compare({0: 11, 1: 22, 2: 33}, {0: 10, 1: 20, 2: 30, 9: 5})
    assert (found.pairs, found.difference, found.won) == (3, 2, 3)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.p_sign_flip == 0.25
    assert found.rho == pytest.approx(1)
    assert found.verdict == "cannot tell"


def test_verdicts() -> None:
    base = dict(enumerate([10.0, 11.0, 12.0, 13.0, 14.0, 15.0]))
    better = {seed: score + 1 + 0.1 * seed for seed, score in base.items()}
    assert compare(better, base).verdict == "better"
    assert compare(base, better).verdict == "worse"
    assert compare(better, base).p_sign_flip == 2 / 64
    assert compare(base, base).verdict == "cannot tell"
    assert compare({0: 2.0}, {0: 1.0}).verdict == "cannot tell"
    assert compare({0: 2.0}, {1: 1.0}).pairs == 0
    assert compare({0: 2.0}, {1: 1.0}).difference is None


def test_fewer_is_better_where_the_metric_is_not_maximised() -> None:
    assert compare({0: 1.0, 1: 3.0}, {0: 2.0, 1: 2.5}, maximise=False).won == 1


@given(Numbers)
def test_the_sign_flip_test_counts_every_pattern(values: list[float]) -> None:
    signs = itertools.product((-1, 1), repeat=len(values))
    slack = 1e-9 * sum(map(abs, values))
    far = [abs(np.dot(pattern, values)) >= abs(sum(values)) - slack for pattern in signs]
    assert sign_flip_p(values) == pytest.approx(sum(far) / len(far))


def test_the_sign_flip_test_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0.4, 1, 12)
    theirs = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("count", [30, 40, 60])
def test_many_pairs_are_no_trouble(count: int) -> None:
    values = np.random.default_rng(count).normal(0.3, 1, count)
    normal = stats.ttest_1samp(values, 0).pvalue
    assert sign_flip_p(values) == pytest.approx(normal, abs=0.01)


def test_the_edges_of_the_sign_flip_test() -> None:
    assert sign_flip_p([]) is None
    assert sign_flip_p([0.0, 0.0]) == 1
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1
    assert sign_flip_p([1.0] * 6) == smallest_p(6) == 2 / 64
    assert smallest_p(5) > 0.05 > smallest_p(6)


@given(Numbers)
def test_the_t_interval_agrees_with_scipy(values: list[float]) -> None:
    low, high = t_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95) if np.std(values) else None
    if theirs is not None:
        assert (low, high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_the_t_interval_holds_its_level() -> None:
    """95 % of intervals of three normal differences hold the mean; a bootstrap's would be at 75 %."""
    random = np.random.default_rng(0)
    draws = [t_interval(random.normal(0, 1, 3)) for _ in range(4000)]
    covered = np.mean([low <= 0 <= high for low, high in draws if low is not None and high is not None])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert corrected == {
        "a": pytest.approx(0.03),
        "c": pytest.approx(0.06),
        "b": pytest.approx(0.06),
        "d": None,
    }
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_correlation_of_what_does_not_vary_is_none() -> None:
    assert correlation(np.ones(3), np.arange(3.0)) is None
    assert correlation(np.ones(1), np.ones(1)) is None


def test_the_smallest_difference_that_shows() -> None:
    """Half widths of the t interval in standard deviations of the differences."""
    assert [round(detectable_effect(n) or 0, 2) for n in (3, 5, 8, 10)] == [2.48, 1.24, 0.84, 0.72]
    assert detectable_effect(1) is None


def test_interquartile_mean_and_improvement_by_hand() -> None:
    assert interquartile_mean({"a": [0, 1, 2, 3], "b": [4, 5, 6, 100]}) == pytest.approx((2 + 3 + 4 + 5) / 4)
    arm, base = {"a": [1.0, 2.0], "b": [5.0]}, {"a": [1.0, 0.0], "b": [6.0]}
    assert probability_of_improvement(arm, base) == pytest.approx((3.5 / 4 + 0) / 2)


def test_improvement_is_mann_and_whitneys_statistic() -> None:
    random = np.random.default_rng(1)
    arm, base = random.normal(0.5, 1, 8), random.normal(0, 1, 9)
    theirs = stats.mannwhitneyu(arm, base).statistic / (8 * 9)
    assert probability_of_improvement({"a": list(arm)}, {"a": list(base)}) == pytest.approx(theirs)


def test_across_data_sets() -> None:
    arm = {name: [place + 1.0, place + 1.1, place + 0.9] for place, name in enumerate("abc")}
    base = {name: [place + 0.0, place + 0.1, place - 0.1] for place, name in enumerate("abc")}
    found = across(arm, base)
    assert found.improvement == 1
    assert found.improvement_interval == (1, 1)
    assert found.iqm_interval[0] <= found.iqm <= found.iqm_interval[1]
    assert across(base, None).improvement is None
    with pytest.raises(ValueError, match="data sets differ"):
        across(arm, {"a": [1.0]})
