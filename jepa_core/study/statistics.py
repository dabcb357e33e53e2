"""Arms compared seed by seed: paired differences with t intervals, exact sign-flip tests, Holm's correction.

What is unusual: there is no bootstrap over seeds, since with a handful of runs its intervals are far too
short; Student's t interval of the paired differences holds its level. The sign-flip test is exact: it counts
every pattern of signs (by halves that meet, so 40 pairs are no trouble), and the smallest p that n pairs can
give is 2 / 2^n, so fewer than six pairs cannot reach .05.

Axes: n seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jepa_core.report.intervals import t_quantile

LEVEL = 0.05
"""Of tests; intervals cover 95 %."""
MOST_EXACT = 40
"""Pairs up to which every pattern of signs is counted; of more, a million patterns are drawn."""


@dataclass(frozen=True)
class Comparison:
    """An arm against its baseline, over the seeds that both have."""

    pairs: int
    difference: float | None
    """Mean of the paired differences, arm minus baseline; None without pairs."""
    low: float | None
    high: float | None
    """The t interval of the difference; None for fewer than two pairs."""
    p_sign_flip: float | None
    """Two-sided, exact."""
    p_holm: float | None
    """The same, corrected for the number of arms that are compared (Holm)."""
    rho: float | None
    """Pearson's correlation of the pairs; None where one side does not vary."""
    won: int
    """Pairs in which the arm is better."""
    maximise: bool = True
    """Whether greater is better."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `cannot tell` where the interval holds 0 or is not known."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "cannot tell"
        return "better" if (self.low > 0) == self.maximise else "worse"

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        facts = asdict(self) | {"verdict": self.verdict}
        del facts["maximise"]
        return facts


def compare(arm: Mapping[Any, float], baseline: Mapping[Any, float], maximise: bool = True) -> Comparison:
    """Compares scores by seed over the seeds that both have. `p_holm` is the p itself: see `holm`."""
    keys = [key for key in arm if key in baseline]
    first = np.array([arm[key] for key in keys], dtype=float)
    second = np.array([baseline[key] for key in keys], dtype=float)
    differences = first - second
    low, high = t_interval(differences)
    p = sign_flip_p(differences)
    won = int((differences > 0).sum() if maximise else (differences < 0).sum())
    mean = float(differences.mean()) if len(keys) else None
    return Comparison(len(keys), mean, low, high, p, p, correlation(first, second), won, maximise)


def t_interval(differences: Sequence[float] | np.ndarray) -> tuple[float | None, float | None]:
    """Student's interval of the mean of `differences` [n], two-sided, of 95 %; (None, None) for n < 2."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return None, None
    half = t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float | None:
    """P that random signs give a sum at least as far from 0, two-sided; None for no differences.

    Exact up to MOST_EXACT values; of more, a million patterns drawn from a fixed seed, this one counted too.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) == 0:
        return None
    total = abs(values.sum()) - 1e-9 * np.abs(values).sum()  # sums that differ by rounding are the same
    if total <= 0:
        return 1.0
    if len(values) > MOST_EXACT:
        return _sample_p(values, total)
    sums = np.sort(_signed_sums(values[: len(values) // 2]))
    others = _signed_sums(values[len(values) // 2 :])
    above = len(sums) - np.searchsorted(sums, total - others, side="left")
    below = np.searchsorted(sums, -total - others, side="right")
    return float((above + below).sum() / 2.0 ** len(values))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """All 2^n sums of `values` [n] with either sign."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _sample_p(values: np.ndarray, total: float) -> float:
    random, draws, count = np.random.default_rng(0), 1_000_000, 1
    for _ in range(draws // 10_000):
        signs = random.choice((-1.0, 1.0), size=(10_000, len(values)))
        count += int((np.abs(signs @ values) >= total).sum())
    return count / (draws + 1)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction over the p values that are there (Holm 1979)."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[name] = largest
    return corrected


def correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Pearson's correlation of two series [n]; None for n < 2, or where one does not vary."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def smallest_p(n: int) -> float:
    """The smallest p that the sign-flip test can give for n pairs."""
    return min(1.0, 2.0 ** (1 - n))


def detectable_effect(n: int) -> float | None:
    """Half the t interval for n pairs, in standard deviations of the differences; None for n < 2.

    A mean difference below it is "cannot tell" at the standard deviation that was seen.
    """
    return t_quantile(n - 1) / math.sqrt(n) if n >= 2 else None
