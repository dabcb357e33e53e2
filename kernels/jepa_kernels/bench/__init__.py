"""Benchmarks of the kernels beside their peers, each as a fraction of what the machine was seen to do.

    jepa bench kernels --op attention --json out.json

`kernels` runs them, `attention`, `ema`, `loss` and `sampling` know the cases and the peers, `timing` times
and `ceilings` measures the machine. Nothing here is imported by the operations.
"""
