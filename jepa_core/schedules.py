"""Learning rate, weight decay and momentum as pure functions of the optimizer step.

Nothing is stepped and nothing is replayed: resuming at step k asks for the value at step k. Steps
count from 0; `total` is the number of optimizer steps of the whole run.
"""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["linear", "cosine", "constant"]


def warmup_cosine(step: int, total: int, warmup: int, start: float, peak: float, final: float) -> float:
    """Linear from `start` to `peak` over `warmup` steps, then a half cosine down to `final`.

    With k = step + 1: start + (peak - start) k / warmup while k < warmup, then
    final + (peak - final) ½(1 + cos π (k - warmup)/(total - warmup)), never below `final`
    (I-JEPA, code of the release).
    """
    k = step + 1
    if k < warmup:
        return start + (peak - start) * k / warmup
    done = (k - warmup) / max(1, total - warmup)
    return max(final, final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done)))


def between(step: int, total: int, start: float, final: float, shape: Shape) -> float:
    """From `start` at the first step towards `final` after the last one.

    `linear`: start + (final - start) step / total, I-JEPA's momentum. `cosine`: the same along half a
    cosine. `constant`: `start`.
    """
    if shape == "constant":
        return start
    done = min(1.0, step / max(1, total))
    if shape == "cosine":
        done = 0.5 * (1 - math.cos(math.pi * done))
    return start + (final - start) * done
