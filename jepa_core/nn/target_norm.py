"""What becomes of target features before they are predicted: averaged over blocks, then normalised."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.types.tokens import Tokens

TargetNorm = Literal["layer", "batch", "position", "none"]


def normalise_targets(tokens: Tokens, how: TargetNorm) -> Tensor:
    """Target features [B·N, D] of every token, in fp32 (fp64 where `tokens` are).

    Where `tokens` bring outputs of several blocks, the mean of these, each layer-normed (data2vec), takes the
    place of the final output. `how` is `variant.target_norm`.
    """
    wide = torch.float64 if tokens.values.dtype == torch.float64 else torch.float32
    values = _mean_of_layers(tokens.layers, wide) if tokens.layers else tokens.values.to(wide)
    if how == "none":
        return values
    if how == "batch":
        values = values - values.mean(0)
        deviation = (values.square().sum(0) / (len(values) - 1)).sqrt()  # std() is slow
        return values / (deviation + 1e-3)
    if how == "position":
        grid = values.view(tokens.at.batch_size, -1, tokens.width)
        values = (grid - grid.mean(0)).reshape(values.shape)
    return _layer_norm(values)


def _mean_of_layers(layers: tuple[Tensor, ...], wide: torch.dtype) -> Tensor:
    """Summed in place: stacking all of them first takes half as long again."""
    first, *others = layers
    total = _layer_norm(first.to(wide))
    for layer in others:
        total.add_(_layer_norm(layer.to(wide)))
    return total / len(layers)


def _layer_norm(values: Tensor) -> Tensor:
    return F.layer_norm(values, values.shape[-1:])
