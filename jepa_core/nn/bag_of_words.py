"""The baseline among encoders of texts: an embedding of each token, whatever stands beside it.

Pooled, it is the mean of a text's word vectors, which knows words and no order.

Axes: B samples, L tokens of the longest text, S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.layers import LayerNorm
from torch import nn

from jepa_core.nn.attention import check_layers
from jepa_core.nn.sequences import IDS, check_ids, take_elements, to_packed
from jepa_core.nn.text_transformer import IdsSettings, text_grid, vocabulary_of
from jepa_core.types import sample
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.tokens import Tokens


class BagOfWords(nn.Module):
    """Ids, a `Packed` int64 [S] or int64 [B, L], to embeddings of the kept tokens, layer-normed.

    The vocabulary is the field's or the setting's; raises UserError without either.
    """

    kinds: ClassVar[tuple[sample.Kind, ...]] = ("ids",)

    class Config(IdsSettings):
        """Settings of the encoder."""

    def __init__(self, config: Config, field: sample.Field | None = None) -> None:
        super().__init__()
        self.config, self.reader = config, f"encoder {config.name!r}"
        self.width, self.depth, self.heads = config.width, 1, 1
        self.vocabulary = vocabulary_of(config, field)
        self.embed = nn.Embedding(self.vocabulary, self.width)
        nn.init.trunc_normal_(self.embed.weight, std=config.init_std)
        self.norm = LayerNorm(self.width)

    def view_shape(self) -> tuple[int]:
        """(L,) of the longest texts, by the settings."""
        return (self.config.length,)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(L,) of a text of L tokens. Raises UserError for other shapes, and beyond the longest."""
        return text_grid(view_shape, self.config.length, self.reader)

    def forward(self, view: Any, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, D] of the tokens at `keep` (all without it); layer 1 is the embedding without norm.

        Raises UserError for views that are no ids, for ids and places that are not there, and long texts.
        """
        texts = to_packed(view, IDS, self.reader)
        grid = self.grid(texts.grid)
        check_layers(layers, self.depth)
        tokens = take_elements(texts, keep, self.reader)
        check_ids(tokens.values, self.vocabulary, self.reader)
        x = self.embed(tokens.values)
        return Tokens(self.norm(x), tokens.at, grid, tuple(x for _ in layers))
