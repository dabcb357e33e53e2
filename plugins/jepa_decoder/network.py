"""The decoder: one small transformer over the hidden patches of a set, for three kinds of condition.

    token of patch i = linear(x_t) + sin-cos(i) + linear(norm(feature i)) + vector of the kind
    blocks: timm's, each modulated by the time and the kind (AdaLN-zero); a zero output layer; answers x̂

What is unusual: one network has the kinds `nothing`, `predicted` and `target`, so that all three are decoded
with the same capacity and training, and differ by what is in the features alone. It is given features and
positions of hidden patches and nothing else: a decoder that also saw the context could paint the hidden part
by itself, and its pictures would say nothing of the prediction.

Axes: Q sets, S packed hidden patches, X pixels of a patch, D width of features, P width of the decoder.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.nn.attention import PackedAttention, run_blocks
from jepa_core.nn.conditioned_blocks import ConditionedPlaces, Modulation
from jepa_core.nn.sincos import sincos
from jepa_core.nn.weight_init import draw_weights
from jepa_core.types import Grid, IndexSet
from jepa_decoder.settings import Config

KINDS = ("nothing", "predicted", "target")
NOTHING, PREDICTED, TARGET = range(3)
WAVES = 64
"""Sines and cosines of the time."""


class Decoder(nn.Module):
    """Noisy hidden patches [S, X], and features of them, to clean ones [S, X].

    `pixels`: X; `feature_width`: D; `grid`: of the run's encoder.
    """

    def __init__(self, config: Config, pixels: int, feature_width: int, grid: Grid) -> None:
        super().__init__()
        self.grid, self.width = grid, config.width
        self.embed = nn.Linear(pixels, config.width)
        self.read = nn.ModuleList(nn.Linear(feature_width, config.width) for _ in (PREDICTED, TARGET))
        self.kinds = nn.Embedding(len(KINDS), config.width)
        self.time = nn.Sequential(
            nn.Linear(WAVES, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, qkv_bias=True, attn_layer=PackedAttention)
            for _ in range(config.depth)
        )
        self.norm = LayerNorm(config.width)
        self.answer = nn.Linear(config.width, pixels)
        draw_weights(self)
        nn.init.normal_(self.kinds.weight, std=0.02)
        nn.init.zeros_(self.answer.weight)
        self.modulations = nn.ModuleList(Modulation(config.width) for _ in range(config.depth))

    def forward(self, x: Tensor, t: Tensor, kind: Tensor, features: Tensor, at: IndexSet) -> Tensor:
        """x̂ [S, X] of noisy patches x [S, X] at times t float [Q].

        `kind` int64 [Q] says what the features [S, D] of each set are; those of `nothing` are not looked at.
        """
        tokens = self.embed(x) + self._positions(at, x) + self._read(features, kind[at.segments])
        tokens = tokens + self.kinds(kind)[at.segments]
        places = ConditionedPlaces(at.layout, self.time(waves(t)) + self.kinds(kind), at.segments)
        blocks = [partial(part, block) for part, block in zip(self.modulations, self.blocks, strict=True)]
        tokens, _ = run_blocks(blocks, tokens, places)
        out: Tensor = self.answer(self.norm(tokens))
        return out

    def _positions(self, at: IndexSet, x: Tensor) -> Tensor:
        table = sincos(self.grid, self.width, device=x.device, dtype=self.embed.weight.dtype)
        return table.index_select(0, at.index)

    def _read(self, features: Tensor, kind: Tensor) -> Tensor:
        """[S, P]: the features by the linear layer of their kind; zeros where the kind is `nothing`."""
        seen = (kind != NOTHING)[:, None]
        normed = F.layer_norm(features.masked_fill(~seen, 0.0), features.shape[-1:])
        predicted, target = (layer(normed) for layer in self.read)
        return torch.where((kind == TARGET)[:, None], target, predicted) * seen


def waves(t: Tensor) -> Tensor:
    """[Q, 64] sines and cosines of times t [Q], of wave numbers from 1 to 1000 radians."""
    rates = torch.logspace(0, 3, WAVES // 2, device=t.device, dtype=t.dtype)
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
