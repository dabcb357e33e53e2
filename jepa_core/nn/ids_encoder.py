"""What encoders of token ids share: their vocabulary, its embedding, and how a view of ids is read.

Axes: B samples, L tokens of the longest text, S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt
from torch import nn

from jepa_core.errors import UserError
from jepa_core.nn.sequences import IDS, check_ids, check_length, take_elements, to_packed
from jepa_core.settings.base import ComponentSettings
from jepa_core.types import sample
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.packed import Packed


class IdsEncoder(nn.Module):
    """Base of encoders of ids. Raises UserError without a vocabulary: the field's, or the setting's."""

    kinds: ClassVar[tuple[sample.Kind, ...]] = ("ids",)

    class Config(ComponentSettings):
        """Settings of every encoder of token ids."""

        carried: ClassVar[frozenset[str]] = frozenset({"vocabulary", "length"})

        vocabulary: PositiveInt | None = None
        """Numbers of tokens, from 0 on; by default those of the field that is read."""
        length: PositiveInt = 64
        """Most tokens of a text; a longer one is an error."""
        width: PositiveInt = 256
        """Width of the features, D."""
        init_std: PositiveFloat = 0.02
        """Standard deviation of the initial weights, embeddings too."""

    config: Any

    def __init__(self, config: Any, field: sample.Field | None = None) -> None:
        super().__init__()
        self.config, self.reader = config, f"encoder {config.name!r}"
        self.width: int = config.width
        self.vocabulary = vocabulary_of(config, field)
        self.embed = nn.Embedding(self.vocabulary, self.width)
        nn.init.trunc_normal_(self.embed.weight, std=config.init_std)

    def view_shape(self) -> tuple[int]:
        """(L,) of the longest texts, by the settings."""
        return (self.config.length,)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(L,) of a text of L tokens. Raises UserError for other shapes, and beyond the longest."""
        if len(view_shape) != 1:
            raise UserError(f"{self.reader} takes texts (L,); got {tuple(view_shape)}")
        check_length(view_shape[0], self.config.length, self.reader, "encoder.length")
        return (view_shape[0],)

    def read(self, view: Any, keep: IndexSet | None) -> tuple[Packed, Grid]:
        """The ids at the places `keep` of each text (all without it), and the grid of the longest text.

        Raises UserError for views that are no ids, for ids and places that are not there, and long texts.
        """
        texts = to_packed(view, IDS, self.reader)
        grid = self.grid(texts.grid)
        tokens = take_elements(texts, keep, self.reader)
        check_ids(tokens.values, self.vocabulary, self.reader)
        return tokens, grid


def vocabulary_of(config: IdsEncoder.Config, field: sample.Field | None) -> int:
    """The setting `vocabulary`, or the field's. Raises UserError without either, for a field that is not of
    ids, and for a setting that leaves out ids of the field."""
    if field is not None and field.kind != "ids":
        raise UserError(
            f"encoder {config.name!r} reads ids, the numbers of a text's tokens; the view is {field.kind}"
        )
    own = None if field is None else field.vocabulary
    if config.vocabulary is None and own is None:
        raise UserError(f"encoder {config.name!r} knows no vocabulary; set encoder.vocabulary")
    if own is not None and config.vocabulary is not None and config.vocabulary < own:
        raise UserError(
            f"setting 'encoder.vocabulary' is {config.vocabulary}; the field has ids from 0 to {own - 1}"
        )
    return config.vocabulary or own or 0
