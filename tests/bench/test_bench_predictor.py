"""A training step with the predictor's whole last block, with its guessed places, and with each context once.

    pytest tests/bench/test_bench_predictor.py --benchmark-enable

The same loss three times: the last block of a predictor is read at the guessed places alone, and copies of a
context differ only after they have read their target, so a predictor of one block needs none. Ratios only
mean something within one run; docs/results.md holds one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import jepa_core
from tests.bench.whole_predictor import compute_all_rows, repeat_contexts

pytestmark = pytest.mark.slow

BATCH = 128
PATCHES = ("encoder.patch_size=4", "encoder.width=192", "encoder.heads=3")
CASES = {
    "demo": (),
    "demo, multi-block": ("masker.name=multiblock",),
    "patch 4, multi-block": ("masker.name=multiblock", *PATCHES),
    "patch 4, truncated": ("masker.name=multiblock", "masker.truncate=first", *PATCHES),
}


def make_step(overrides: tuple[str, ...]) -> Callable[[], Tensor]:
    """A step on fixed random images and masks; it returns the loss."""
    recipe = jepa_core.load_recipe("ijepa/demo", *overrides)
    model = jepa_core.build_model(recipe)
    step = jepa_core.training_step(model, recipe)
    images = torch.randn(BATCH, *model.encoder.view_shape(), generator=torch.Generator().manual_seed(0))
    plan = jepa_core.sample_masks(model, BATCH, seed=0)
    return lambda: step(images, plan).loss


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["whole", "guessed places", "and contexts once"])
def test_step(benchmark, monkeypatch: pytest.MonkeyPatch, way: str, case: str) -> None:
    if way == "whole":
        compute_all_rows(monkeypatch)
    if way != "and contexts once":
        repeat_contexts(monkeypatch)
    benchmark.group = f"training step, {case}"
    loss = benchmark.pedantic(make_step(CASES[case]), rounds=12, warmup_rounds=2)
    assert loss.isfinite()
