"""Benchmarks of the kernels beside their peers, each as a fraction of the machine's measured ceilings.

    python -m jepa_kernels.bench --op attention --shape B/16       # needs torch, and triton on a GPU
    python -m jepa_kernels.bench compare before.json after.json    # ratios to peers, never times
    case = jepa_kernels.bench.load("I-JEPA B/16 context")          # heads and lengths, as versioned data

`kernels` runs them, `attention`, `ema`, `loss` and `sampling` know the cases and the peers, `timing` times
and `ceilings` measures the machine. Nothing here is imported by the operations.
"""

from jepa_kernels.bench.shapes import VERSION, Case, load, names

__all__ = ["VERSION", "Case", "load", "names"]
