"""An `IndexSet` that is padded at the end of the packed batch, for steps whose shapes must not change.

Axes: B samples, F padding sequences, S packed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.types.cached_property import cached_property
from jepa_core.types.index_set import IndexSet


@dataclass(frozen=True, eq=False)
class PaddedSet(IndexSet):
    """An `IndexSet` whose last `num_padding` sequences (F) belong to no sample.

    `index` [S], `lengths` [B+F] and `segments` include them; `batch_size` is B, and `samples` assigns their
    tokens to the last sample.
    """

    num_padding: int = 0

    @property
    def batch_size(self) -> int:
        """B, without the padding sequences."""
        return self.lengths.numel() - self.num_padding

    @property
    def valid(self) -> Tensor:
        """bool [S]: whether a packed token belongs to a sample."""
        return torch.arange(self.total, device=self.index.device) < self.offsets[self.batch_size]

    @cached_property
    def samples(self) -> Tensor:
        """int64 [S]: the sample of each packed token; of padding tokens the last one."""
        return self.segments.clamp(max=self.batch_size - 1)


def valid_rows(sets: Sequence[IndexSet]) -> Tensor | None:
    """bool [S of all sets]: which tokens of the sets, in order, are no padding; None: there is none."""
    masks = [index_set.valid for index_set in sets]
    if all(mask is None for mask in masks):
        return None
    full = (torch.ones_like(index_set.index, dtype=torch.bool) for index_set in sets)
    return torch.cat([ones if mask is None else mask for mask, ones in zip(masks, full, strict=True)])
