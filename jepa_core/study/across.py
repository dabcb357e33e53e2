"""Several data sets in one number: interquartile mean and probability of improvement (Agarwal et al. 2021,
arXiv 2108.13264, as in their rliable), with intervals by bootstrap over the runs of each data set.

Axes: n runs of a data set, M data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import trim_mean

FEWEST = 3
"""Data sets from which on there is something to aggregate."""
DRAWS = 2000

Scores = Mapping[str, Sequence[float] | np.ndarray]
"""For each data set its runs' scores [n]."""


@dataclass(frozen=True)
class Across:
    """An arm over all data sets, with 95 % intervals (low, high)."""

    iqm: float
    """Mean of the middle half of all runs' scores."""
    iqm_interval: tuple[float, float]
    improvement: float | None
    """Probability that a run of the arm beats one of the baseline, the mean over data sets; None for the
    baseline."""
    improvement_interval: tuple[float, float] | None

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def interquartile_mean(scores: Scores) -> float:
    """Mean of all runs' scores without the lowest and the highest quarter."""
    return float(trim_mean(np.concatenate([np.asarray(s, dtype=float) for s in scores.values()]), 0.25))


def probability_of_improvement(arm: Scores, baseline: Scores) -> float:
    """P(a run of the arm beats one of the baseline), a tie counting half; the mean over data sets."""
    return float(np.mean([_wins(np.asarray(arm[name]), np.asarray(baseline[name])) for name in arm]))


def across(arm: Scores, baseline: Scores | None) -> Across:
    """Both numbers, with percentile intervals of a bootstrap that draws runs within each data set.

    Raises ValueError where arm and baseline do not have the same data sets.
    """
    if baseline is not None and set(arm) != set(baseline):
        raise ValueError(f"data sets differ: {sorted(arm)} and {sorted(baseline)}")
    iqm = _interval(lambda random: interquartile_mean(_resample(arm, random)))
    if baseline is None:
        return Across(interquartile_mean(arm), iqm, None, None)
    improvement = _interval(
        lambda random: probability_of_improvement(_resample(arm, random), _resample(baseline, random))
    )
    return Across(interquartile_mean(arm), iqm, probability_of_improvement(arm, baseline), improvement)


def _wins(arm: np.ndarray, baseline: np.ndarray) -> float:
    """Mann and Whitney's statistic as a share of all pairs."""
    difference = arm[:, None] - baseline[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _resample(scores: Scores, random: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: random.choice(np.asarray(runs, dtype=float), len(runs)) for name, runs in scores.items()}


def _interval(draw: Callable[[np.random.Generator], float]) -> tuple[float, float]:
    random = np.random.default_rng(0)
    low, high = np.percentile([draw(random) for _ in range(DRAWS)], [2.5, 97.5])
    return float(low), float(high)
