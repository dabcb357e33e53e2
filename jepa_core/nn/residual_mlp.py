"""What a residual block adds to tokens: layer norm, then an MLP of twice the width."""

from __future__ import annotations

from torch import nn


def residual_mlp(width: int) -> nn.Sequential:
    """A module from [..., D] to [..., D], D = `width`."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
    )
