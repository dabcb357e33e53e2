"""Features and their places in the token grid.

Axes: B samples, S packed tokens, N tokens of the grid, K tokens kept of each sample, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jepa_core.types.index_set import Grid, IndexSet, grid_size


@dataclass(frozen=True, eq=False)
class Tokens:
    """Features [S, D] and their places in the token grid.

    `grid` is the whole grid, `at` the tokens of it that these are. `layers` holds the same tokens'
    features after other blocks, where the encoder was asked for them, each [S, D].
    """

    values: Tensor
    at: IndexSet
    grid: Grid
    layers: tuple[Tensor, ...] = ()

    @property
    def width(self) -> int:
        """D."""
        return self.values.shape[-1]

    def dense(self) -> Tensor:
        """[B, K, D], where every sample has K tokens."""
        if self.at.uniform is None:
            self.at.dense()
        return self.values.view(self.at.batch_size, -1, self.width)

    def gather(self, keep: IndexSet) -> Tokens:
        """The tokens at `keep`, taken from the features of the whole grid."""
        tokens = grid_size(self.grid)
        if self.at.uniform != tokens:
            raise ValueError(
                f"gather takes tokens of the whole grid {self.grid}; got {self.at.max_length} of {tokens}"
            )
        rows = keep.flat(tokens)
        pick = [v.index_select(0, rows) for v in (self.values, *self.layers)]
        return Tokens(pick[0], keep, self.grid, tuple(pick[1:]))

    def mean(self) -> Tensor:
        """[B, D]: the average over each sample's tokens; zeros where a sample has none."""
        if self.at.uniform:
            return self.dense().mean(1)
        valid, lengths = self.at.valid, self.at.lengths[: self.at.batch_size]
        values = self.values if valid is None else self.values * valid[:, None]
        total = values.new_zeros(len(lengths), self.width).index_add(0, self.at.samples, values)
        return total / lengths.clamp(min=1)[:, None].to(total.dtype)
