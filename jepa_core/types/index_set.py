"""Which tokens each sample of a batch keeps: token grids, and ragged, packed index sets.

What is unusual: index sets stay ragged. A set is *packed*: one flat list of token indices for the
whole batch plus the length of each sample, so nothing is cut to the smallest set of a batch and
nothing is padded. Everything but attention works token by token and is not affected.

Axes: B samples, S packed tokens (sum of all lengths), N tokens of the whole grid, K tokens kept of
each sample where all samples keep as many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepa_core.types.batch import Device
from jepa_core.types.cached_property import cached_property
from jepa_kernels import Layout

Grid = tuple[int, ...]
"""Sides of a token grid, slowest axis first: `(H, W)`, `(T, H, W)`, `(L,)`."""


def grid_size(grid: Grid) -> int:
    """Number of tokens N of a grid."""
    return math.prod(grid)


@dataclass(frozen=True, eq=False)
class IndexSet:
    """Which tokens of the grid each sample of a batch keeps: ragged, packed.

    `index` int64 [S]: token indices, sample after sample. `lengths` int64 [B]: tokens of each sample.
    Within a sample the indices ascend, unless a masker wants an order of its own.
    `max_length` and `uniform` are plain numbers, known without reading a device.
    """

    index: Tensor
    lengths: Tensor
    max_length: int
    uniform: int | None = None

    @classmethod
    def from_dense(cls, index: Tensor) -> IndexSet:
        """From int [B, K]: every sample keeps K tokens. Raises ValueError for another rank or type."""
        if index.dim() != 2 or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(
                f"a dense index is whole numbers [B, K]; got {index.dtype} {list(index.shape)}. "
                "IndexSet.from_mask takes a mask bool [B, N]"
            )
        batch, length = index.shape
        lengths = torch.full((batch,), length, dtype=torch.long, device=index.device)
        return cls(index.reshape(-1).long(), lengths, length, length)

    @classmethod
    def from_mask(cls, keep: Tensor) -> IndexSet:
        """From bool [B, N]: the tokens where `keep` is true, ascending."""
        if keep.dim() != 2 or keep.dtype != torch.bool:
            raise ValueError(f"a mask is bool [B, N]; got {keep.dtype} {list(keep.shape)}")
        return cls.from_lengths(keep.nonzero()[:, 1], keep.sum(1))

    @classmethod
    def from_lengths(cls, index: Tensor, lengths: Tensor) -> IndexSet:
        """From packed int [S] and int [B]. Raises ValueError where the lengths do not add up to S."""
        sizes = lengths.tolist()
        if index.dim() != 1 or lengths.dim() != 1 or sum(sizes) != index.numel():
            raise ValueError(
                f"packed indices are [S] with lengths [B] that add up to S; got {list(index.shape)}, {sizes}"
            )
        longest, shortest = max(sizes, default=0), min(sizes, default=0)
        return cls(index.long(), lengths.long(), longest, longest if longest == shortest else None)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> IndexSet:
        """From one sequence of indices a sample."""
        rows = [torch.as_tensor(row, dtype=torch.long) for row in lists]
        index = torch.cat(rows) if rows else torch.empty(0, dtype=torch.long)
        return cls.from_lengths(index, torch.tensor([row.numel() for row in rows], dtype=torch.long))

    @classmethod
    def full(cls, batch_size: int, tokens: int, device: Device | None = None) -> IndexSet:
        """Every token of every sample: [B] x N."""
        return cls.from_dense(torch.arange(tokens, device=device).expand(batch_size, tokens))

    @property
    def batch_size(self) -> int:
        """B."""
        return self.lengths.numel()

    @property
    def total(self) -> int:
        """S, the number of packed tokens."""
        return self.index.numel()

    @cached_property
    def offsets(self) -> Tensor:
        """int64 [B+1]: sample b holds the packed rows offsets[b] … offsets[b+1]-1."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    @property
    def valid(self) -> Tensor | None:
        """bool [S]: false for padding (`padded_set.PaddedSet`); None where there is none."""
        return None

    @cached_property
    def segments(self) -> Tensor:
        """int64 [S]: the sequence of each packed token, which is its sample except in a `PaddedSet`."""
        sequences = torch.arange(self.lengths.numel(), device=self.index.device)
        if self.uniform is not None:
            return sequences.repeat_interleave(self.uniform)
        return sequences.repeat_interleave(self.lengths, output_size=self.total)

    @property
    def samples(self) -> Tensor:
        """int64 [S]: the sample each packed token belongs to, 0 … B-1."""
        return self.segments

    @cached_property
    def layout(self) -> Layout:
        """The attention layout in which each token sees the tokens of its own sample."""
        return Layout.packed(self.offsets, max_len=self.max_length, uniform=self.uniform, total=self.total)

    def flat(self, tokens: int) -> Tensor:
        """int64 [S]: rows of a [B·N, …] view that these tokens stand at, N = `tokens`.

        Raises ValueError on the CPU for an index outside 0 … N-1; on an accelerator it is not checked, which
        would wait for the device.
        """
        if self.total and self.index.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(end) for end in self.index.aminmax())
            if low < 0 or high >= tokens:
                raise ValueError(f"token indices go from 0 to {tokens - 1} on this grid; got {low} … {high}")
        return self.samples * tokens + self.index

    def dense(self) -> Tensor:
        """int64 [B, K]. Raises ValueError where the samples keep different numbers of tokens."""
        if self.uniform is None:
            raise ValueError(
                f"this set is ragged (lengths {self.lengths.min()}…{self.lengths.max()}); "
                "it has no dense form. Use .index with .offsets, or .split()"
            )
        return self.index.view(self.batch_size, self.uniform)

    def split(self) -> list[Tensor]:
        """One int64 tensor a sample."""
        return list(self.index.split(self.lengths.tolist()))

    def mask(self, tokens: int) -> Tensor:
        """bool [B, N]: true where a token is kept."""
        keep = torch.zeros(self.batch_size * tokens, dtype=torch.bool, device=self.index.device)
        keep[self.flat(tokens)] = True
        return keep.view(self.batch_size, tokens)

    def to(self, device: Device, non_blocking: bool = False) -> IndexSet:
        """The same set on another device."""
        if self.index.device == torch.device(device):
            return self
        index = self.index.to(device, non_blocking=non_blocking)
        return replace(self, index=index, lengths=self.lengths.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> IndexSet:
        """The same set in page-locked memory; called by torch's DataLoader."""
        return replace(self, index=self.index.pin_memory(), lengths=self.lengths.pin_memory())
