"""The baseline among encoders of texts: an embedding of each token, whatever stands beside it.

Pooled, it is the mean of a text's word vectors, which knows words and no order.

Axes: B samples, L tokens of the longest text, S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm

from jepa_core.nn.attention import check_layers
from jepa_core.nn.ids_encoder import IdsEncoder
from jepa_core.types import sample
from jepa_core.types.index_set import IndexSet
from jepa_core.types.tokens import Tokens


class BagOfWords(IdsEncoder):
    """Ids, a `Packed` int64 [S] or int64 [B, L], to embeddings of the kept tokens, layer-normed.

    The vocabulary is the field's or the setting's; raises UserError without either.
    """

    class Config(IdsEncoder.Config):
        """Settings of the encoder."""

    def __init__(self, config: Config, field: sample.Field | None = None) -> None:
        super().__init__(config, field)
        self.depth, self.heads = 1, 1
        self.norm = LayerNorm(self.width)

    def forward(self, view: Any, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, D] of the tokens at `keep` (all without it); layer 1 is the embedding without norm.

        Raises UserError for views that are no ids, for ids and places that are not there, and long texts.
        """
        check_layers(layers, self.depth)
        tokens, grid = self.read(view, keep)
        x = self.embed(tokens.values)
        return Tokens(self.norm(x), tokens.at, grid, tuple(x for _ in layers))
