"""An encoder of vectors (actions, states, measurements): each to one token, by an MLP.

    a vector [B, D]                               one token a sample, on the grid (1,)
    a sequence: a Packed [S, D], or [B, L, D]     a token for each vector, on the grid (L,)

Axes: B samples, L vectors of the longest sequence, S packed vectors, D their width, P the features'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt
from timm.layers import LayerNorm, Mlp
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.attention import check_layers
from jepa_core.nn.sequences import VECTORS, check_length, take_elements, to_packed
from jepa_core.settings.base import ComponentSettings
from jepa_core.types import sample
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.tokens import Tokens


class VectorMlp(nn.Module):
    """Vectors to features: a linear map, then blocks x + MLP(norm(x)). No vector sees another.

    Width and length of what is read are the field's or the settings'; raises UserError without either.
    """

    kinds: ClassVar[tuple[sample.Kind, ...]] = ("sequence", "vector")

    class Config(ComponentSettings):
        """Settings of the encoder."""

        carried: ClassVar[frozenset[str]] = frozenset({"inputs", "length"})

        inputs: PositiveInt | None = None
        """Width of the vectors, D; by default that of the field that is read."""
        length: PositiveInt | None = None
        """Most vectors of a sequence; by default the field's own length, or 64 where it differs from sample
        to sample. Without a field single vectors are read by default."""
        width: PositiveInt = 128
        """Width of the features, P."""
        depth: PositiveInt = 2
        """Number of blocks."""
        mlp_ratio: PositiveFloat = 2.0
        """Hidden width of the MLPs over the width."""

    def __init__(self, config: Config, field: sample.Field | None = None) -> None:
        super().__init__()
        self.config, self.reader = config, f"encoder {config.name!r}"
        self.width, self.depth, self.heads = config.width, config.depth, 1
        self.inputs = _inputs_of(config, field)
        self.length = config.length
        if self.length is None and field is not None and field.kind == "sequence":
            self.length = field.shape[0] or LENGTH
        self.embed = nn.Linear(self.inputs, self.width)
        hidden = int(self.width * config.mlp_ratio)
        self.blocks = nn.ModuleList(
            nn.Sequential(LayerNorm(self.width), Mlp(self.width, hidden)) for _ in range(self.depth)
        )
        self.norm = LayerNorm(self.width)

    def view_shape(self) -> tuple[int, ...]:
        """(D,) of a vector, or (L, D) of the longest sequences."""
        return (self.inputs,) if self.length is None else (self.length, self.inputs)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(1,) of a vector (D,), (L,) of a sequence (L, D). Raises UserError for other shapes."""
        if len(view_shape) not in (1, 2) or view_shape[-1] != self.inputs:
            raise UserError(
                f"{self.reader} takes vectors ({self.inputs},) or sequences (L, {self.inputs}); "
                f"got {tuple(view_shape)}"
            )
        length = 1 if len(view_shape) == 1 else view_shape[0]
        check_length(length, self.length or 1, self.reader, "encoder.length")
        return (length,)

    def forward(self, view: Any, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, P] of the vectors at `keep` (all without it).

        `layers` names blocks, 1 … depth, whose outputs are wanted too, without the final norm.
        Raises UserError for views that are no vectors of this width, and places that are not there.
        """
        vectors = to_packed(view, VECTORS, self.reader)
        grid = self.grid((vectors.at.max_length, vectors.values.shape[1]))
        check_layers(layers, self.depth)
        tokens = take_elements(vectors, keep, self.reader)
        x: Tensor = self.embed(tokens.values)
        outputs: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, 1):
            x = x + block(x)
            outputs[number] = x
        return Tokens(self.norm(x), tokens.at, grid, tuple(outputs[layer] for layer in layers))


LENGTH = 64
"""Most vectors of a sequence whose field says no length."""


def _inputs_of(config: VectorMlp.Config, field: sample.Field | None) -> int:
    """D. Raises UserError without any, for a field without vectors, and where setting and field differ."""
    if field is not None and field.kind not in VectorMlp.kinds:
        raise UserError(
            f"encoder {config.name!r} reads vectors or sequences of them; the view is {field.kind}"
        )
    own = field.shape[-1] if field is not None and field.shape else None
    if None not in (own, config.inputs) and own != config.inputs:
        raise UserError(f"setting 'encoder.inputs' is {config.inputs}; the field's vectors are {own} wide")
    if config.inputs is None and own is None:
        raise UserError(f"encoder {config.name!r} does not know how wide its vectors are; set encoder.inputs")
    return config.inputs or own or 0
