"""DINOv2's depth head: its losses against float64 formulas, its mixture, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa_core.evaluate.dense.bins_head import BinsHead, gradient_loss, sig_loss
from jepa_core.evaluate.dense.depth_bins import DepthBins, patch_depth, rate_at
from tests.core.evaluate.dense.conftest import MakeContext


def maps(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    guess, depth = 0.5 + 4 * torch.rand(2, 2, 16, 16, generator=draw)
    return guess, depth, torch.rand(2, 16, 16, generator=draw) < 0.8


def test_sig_loss_against_the_formula_in_float64() -> None:
    guess, depth, known = maps(1)
    g = np.log(guess.numpy().astype(float) + 0.001) - np.log(depth.numpy().astype(float) + 0.001)
    g = g[known.numpy()]
    mean = sum(g) / len(g)
    variance = sum((g - mean) ** 2) / (len(g) - 1)
    assert sig_loss(guess, depth, known).item() == pytest.approx(
        math.sqrt(variance + 0.15 * mean**2), rel=1e-5
    )
    first = sig_loss(guess, depth, known, variance=False).item()
    assert first == pytest.approx(math.sqrt(0.15) * abs(mean), rel=1e-4)
    assert sig_loss(depth, depth, known).item() < 1e-5


def test_the_gradient_loss_against_a_loop_over_pairs() -> None:
    guess, depth, known = maps(2)
    g = np.log(guess.numpy().astype(float) + 0.001) - np.log(depth.numpy().astype(float) + 0.001)
    total = 0.0
    for step in (1, 2, 4, 8):
        down, across = [], []
        for b in range(2):
            for y in range(0, 16, step):
                for x in range(0, 16, step):
                    if y + step < 16 and known[b, y, x] and known[b, y + step, x]:
                        down.append(abs(g[b, y + step, x] - g[b, y, x]))
                    if x + step < 16 and known[b, y, x] and known[b, y, x + step]:
                        across.append(abs(g[b, y, x + step] - g[b, y, x]))
        total += np.mean(down) + np.mean(across)
    assert gradient_loss(guess, depth, known).item() == pytest.approx(total, rel=1e-5)


def test_a_depth_is_the_mean_of_bins_by_weight() -> None:
    head = BinsHead(torch.zeros(3), torch.ones(3), 1.0, 3.0, bins=3)
    logits = torch.tensor([[-1.0, 0.2, 0.7]])[..., None, None]
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(logits.flatten())
    expected = (1 * 0.1 + 2 * 0.3 + 3 * 0.8) / 1.2
    assert head.mix(logits).item() == pytest.approx(expected)
    depth = head(torch.zeros(1, 4, 3), (2, 2))
    assert depth.shape == (1, 8, 8)
    assert depth.eq(depth[0, 0, 0]).all()
    assert depth[0, 0, 0].item() == pytest.approx(expected)
    assert head.depth(torch.zeros(1, 4, 3), (2, 2), (16, 16)).shape == (1, 16, 16)


def test_the_rate_warms_up_for_a_third_and_falls_to_nothing() -> None:
    rates = [rate_at(step, 300) for step in range(300)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == rates[100] == 1
    assert rates[200] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


def test_the_depth_of_a_patch_is_a_geometric_mean() -> None:
    assert patch_depth(torch.tensor([[[1.0, 4.0], [2.0, 8.0]]]), (2, 1)).tolist() == [[2.0, 4.0]]


def test_it_learns_and_is_told_as_depth_is(context_on: MakeContext) -> None:
    config = DepthBins.Config(steps=150, lr=0.1, bins=16)
    (table,) = DepthBins(config)(context_on())
    assert [row.name for row in table.rows][-2:] == ["position only", "mean map"]
    assert table.own["skill"].value > 0.2
    assert "DINOv2's head of 16 bins, 150 steps of AdamW on 16 of 48 drawn images" in table.note
    (short,) = DepthBins(DepthBins.Config(steps=2, bins=16))(context_on())
    assert short.own["skill"].value < table.own["skill"].value
    limited = DepthBins(DepthBins.Config(steps=2, bins=16, max_depth=3.0, images=10))
    assert "of AdamW on 16 of" in limited(context_on())[0].note
