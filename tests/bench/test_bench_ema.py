"""The EMA update beside I-JEPA's official loop, in the same run: `pytest tests/bench --benchmark-enable`."""

import pytest
import torch

from jepa_kernels import EmaPlan, ema_update_


def vit_shapes(width: int = 192, depth: int = 6) -> list[tuple[int, ...]]:
    """Parameter shapes of a small ViT's blocks."""
    block = [(3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    mlp = [(4 * width, width), (4 * width,), (width, 4 * width), (width,), (width,), (width,)]
    return (block + mlp) * depth


def official_loop(teacher, student, momentum: float) -> None:
    """As in I-JEPA's train.py."""
    with torch.no_grad():
        for mine, theirs in zip(teacher, student, strict=True):
            mine.data.mul_(momentum).add_((1.0 - momentum) * theirs.detach().data)


@pytest.mark.parametrize("impl", ["official", "foreach", "reference"])
def test_ema(benchmark, impl):
    benchmark.group = "ema of 2.7 M parameters"
    benchmark.extra_info["peer"] = "official"
    teacher, student = ([torch.randn(shape) for shape in vit_shapes()] for _ in range(2))
    plan = EmaPlan(teacher, student)
    if impl == "official":
        step = lambda: official_loop(teacher, student, 0.996)  # noqa: E731
    else:
        step = lambda: ema_update_(plan, 0.004, impl=impl)  # noqa: E731
    benchmark.pedantic(step, rounds=20, iterations=3, warmup_rounds=2)
    assert all(bool(t.isfinite().all()) for t in teacher)
