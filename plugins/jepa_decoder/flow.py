"""Flow matching on patches with a network that answers with the clean patch: noise, loss, Euler's steps.

A patch x and noise ε are joined by the line x_t = t x + (1 - t) ε, from noise at t = 0 to the patch at t = 1.
What is unusual: the network answers x̂ and not the velocity, since a patch has as many pixels as a narrow
network has units and noise cannot be told apart from them there (JiT, arXiv 2511.13720); the velocity is
(x̂ - x_t) / (1 - t), and the loss is that of the velocity.

Axes: Q sets, S packed hidden patches, X pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

NEAREST = 0.05
"""1 - t is taken as no less than this in the loss, which would else be that of the last steps alone."""

Denoise = Callable[[Tensor, float], Tensor]
"""(x_t [S, X], t) to the clean patches x̂ [S, X] that the network guesses."""


def add_noise(patches: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """x_t = t x + (1 - t) ε, [S, X]; `t` is one number, or [S, 1]."""
    return t * patches + (1 - t) * noise


def loss_weight(t: Tensor) -> Tensor:
    """1 / max(1 - t, .05)²: with it the error of x̂ is the error of the velocity."""
    return (1 - t).clamp(min=NEAREST) ** -2


def draw_times(count: int, mean: float, std: float, at_zero: float, generator: Generator) -> Tensor:
    """float [count]: t = sigmoid(N(`mean`, `std`²)), and exactly 0 in a share `at_zero` of all.

    The sigmoid almost never comes near 0, where sampling begins and where the answer is the mean of all
    patches that the condition leaves possible; so that start is trained on its own.
    """
    times = torch.randn(count, generator=generator).mul_(std).add_(mean).sigmoid_()
    return times.masked_fill_(torch.rand(count, generator=generator) < at_zero, 0.0)


def sample(denoise: Denoise, noise: Tensor, steps: int) -> Tensor:
    """Patches [S, X] from noise [S, X] in `steps` Euler steps of the velocity (x̂ - x_t) / (1 - t).

    The last step, from t = 1 - 1 / `steps`, ends at its x̂, so nothing is divided by less than 1 / `steps`.
    """
    x = noise
    for number in range(steps):
        x = x + (denoise(x, number / steps) - x) / (steps - number)
    return x
