"""An encoder of texts: the ids of their tokens to features, by a small transformer trained from scratch.

What is unusual: texts are packed, one after another, without padding, and there is no id for it: `[B, L]` ids
are all read. A mask may keep some places of each text; what is hidden is then never seen.

Axes: B samples, L tokens of the longest text, S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.attention import (
    PackedAttention,
    Residual,
    check_layers,
    choose_implementation,
    run_blocks,
    to_residual,
)
from jepa_core.nn.causal_attention import CausalAttention
from jepa_core.nn.fused_linear import fuse_linears
from jepa_core.nn.ids_encoder import IdsEncoder
from jepa_core.nn.rotary import Rotary, check_head_width, rotary
from jepa_core.nn.sincos import check_width, sincos_like
from jepa_core.nn.weight_init import draw_weights
from jepa_core.types import sample
from jepa_core.types.index_set import IndexSet
from jepa_core.types.tokens import Tokens
from jepa_kernels import Layout


class TextTransformer(IdsEncoder):
    """Ids, a `Packed` int64 [S] or int64 [B, L], to features of the kept tokens, final norm applied.

    The vocabulary is the field's or the setting's. Raises UserError without either, and for a width that the
    heads do not divide or the positions do not suit.
    Source: Vaswani et al. 2017 (arXiv 1706.03762); pre-norm blocks as in ViT and GPT-2.
    """

    class Config(IdsEncoder.Config):
        """Settings of the encoder."""

        depth: PositiveInt = 4
        """Number of transformer blocks."""
        heads: PositiveInt = 4
        """Attention heads of each block."""
        mlp_ratio: PositiveFloat = 4.0
        """Hidden width of the MLPs over the width."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the elements that are set to zero in training, after embedding, attention and MLP."""
        causal: bool = False
        """Whether a token attends to those before it alone (through sdpa); or to the whole text."""
        positions: Literal["learned", "sincos", "rope"] = "learned"
        """A trained table or a fixed sine-cosine one added to the tokens, or rotary inside attention."""
        position_scale: float = 0.02
        """Factor on the sine-cosine positions, whose own amplitude is 1."""
        checkpoint: bool = False
        """Recompute activations in the backward pass: less memory, about a third more time."""
        residual: Residual = "auto"
        """Type in which tokens are added up from block to block under bf16: `fp32`, `autocast` (bf16 too), or
        `auto`: fp32 on a GPU, autocast on a CPU."""
        attention: str = "auto"
        """Implementation of attention, of `jepa_kernels.ATTENTION_IMPLS`; `auto` takes the best usable."""

        def check(self) -> None:
            """Raises UserError for heads that do not divide the width, and for unsuitable positions."""
            if self.width % self.heads:
                raise UserError(
                    f"encoder {self.name!r}: a width of {self.width} cannot be split among {self.heads} "
                    "heads; set encoder.width or encoder.heads"
                )
            try:
                if self.positions == "rope":
                    check_head_width((self.length,), self.width // self.heads)
                elif self.positions == "sincos":
                    check_width((self.length,), self.width)
            except UserError as error:
                raise UserError(f"encoder {self.name!r}: {error}; set encoder.width") from None

    def __init__(self, config: Config, field: sample.Field | None = None) -> None:
        config.check()
        super().__init__(config, field)
        self.depth, self.heads = config.depth, config.heads
        if config.positions == "learned":
            self.position = nn.Parameter(torch.empty(config.length, self.width))
            nn.init.trunc_normal_(self.position, std=config.init_std)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(self._block() for _ in range(self.depth)))
        self.norm = LayerNorm(self.width)
        draw_weights(self, config.init_std)
        choose_implementation(self, config.attention)
        fuse_linears(self)

    def forward(self, view: Any, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, D] of the tokens at `keep` (all without it), on the grid of the batch's longest text.

        `layers` names blocks, 1 … depth, whose outputs are wanted too, without the final norm.
        Raises UserError for views that are no ids, for ids and places that are not there, and long texts.
        """
        check_layers(layers, self.depth)
        tokens, grid = self.read(view, keep)
        x = self.drop(to_residual(self._embed(tokens.values, tokens.at), self.config.residual))
        places = self._places(tokens.at)
        x, outputs = run_blocks(self.blocks, x, places, recompute=self.config.checkpoint, layers=layers)
        return Tokens(self.norm(x), tokens.at, grid, outputs)

    def _embed(self, ids: Tensor, at: IndexSet) -> Tensor:
        x: Tensor = self.embed(ids)
        if self.config.positions == "rope":
            return x
        if self.config.positions == "learned":
            return x + self.position.index_select(0, at.index)
        scale = self.config.position_scale
        table = sincos_like(self.embed.weight, self.view_shape(), self.width, scale, x.device)
        return x + table.index_select(0, at.index)

    def _places(self, at: IndexSet) -> Layout | Rotary:
        if self.config.positions != "rope":
            return at.layout
        return rotary(self.view_shape(), at.index, self.width // self.heads, at.layout)

    def _block(self) -> Block:
        return Block(
            self.width,
            self.heads,
            mlp_ratio=self.config.mlp_ratio,
            qkv_bias=True,
            proj_drop=self.config.dropout,
            attn_layer=CausalAttention if self.config.causal else PackedAttention,
        )
