"""Sequences of different lengths in one tensor: the texts, actions or sounds of a batch.

Axes: B samples, S packed elements (sum of all lengths), L elements of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepa_core.types.batch import Device
from jepa_core.types.index_set import Grid, IndexSet


@dataclass(frozen=True, eq=False)
class Packed:
    """The sequences of a batch, one after the other, without padding.

    `values` [S, ...]: elements (token ids int64 [S], vectors [S, D], …). `at`: the sample of each element,
    and its place in its own sequence, on a grid `(L,)`; attention within each sequence is `at.layout`.
    """

    values: Tensor
    at: IndexSet

    @classmethod
    def of(cls, sequences: Sequence[Tensor]) -> Packed:
        """From one tensor [l, ...] a sample. Raises ValueError where there is none, or shapes differ."""
        if not sequences:
            raise ValueError("a packed batch holds one sequence at least; got none")
        inner = {tuple(sequence.shape[1:]) for sequence in sequences}
        if len(inner) > 1:
            raise ValueError(f"the elements of packed sequences have one shape; got {sorted(inner)}")
        lengths = [len(sequence) for sequence in sequences]
        places = torch.cat([torch.arange(length) for length in lengths])
        return cls(torch.cat(list(sequences)), IndexSet.from_lengths(places, torch.tensor(lengths)))

    def __len__(self) -> int:
        """B, as of a tensor [B, ...]."""
        return self.batch_size

    @property
    def batch_size(self) -> int:
        """B."""
        return self.at.batch_size

    @property
    def grid(self) -> Grid:
        """`(L,)`, L the length of the longest sequence of this batch."""
        return (self.at.max_length,)

    def split(self) -> list[Tensor]:
        """One tensor [l, ...] a sample."""
        return list(self.values.split(self.at.lengths.tolist()))

    def take(self, rows: Sequence[int]) -> Packed:
        """The sequences of these samples, in this order."""
        sequences = self.split()
        return Packed.of([sequences[row] for row in rows])

    def to(self, device: Device, non_blocking: bool = False) -> Packed:
        """The same sequences on another device."""
        values = self.values.to(device, non_blocking=non_blocking)
        return replace(self, values=values, at=self.at.to(device, non_blocking))
