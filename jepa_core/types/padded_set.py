"""An `IndexSet` that is padded at the end of the packed batch, for steps whose shapes must not change.

Axes: B samples, F padding sequences, S packed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.types.cached_property import once
from jepa_core.types.index_set import IndexSet


@dataclass(frozen=True, eq=False)
class PaddedSet(IndexSet):
    """An `IndexSet` whose last sequences, `fillers` of them, stand for no sample.

    `index` [S] and `lengths` [B+F] hold them too, and `segments` counts on through them; `batch_size` is B,
    and in `samples` their tokens are the last sample's.
    """

    fillers: int = 0

    @property
    def batch_size(self) -> int:
        """B, without the fillers."""
        return self.lengths.numel() - self.fillers

    @property
    def real(self) -> Tensor:
        """bool [S]: whether a packed token belongs to a sample."""
        return torch.arange(self.total, device=self.index.device) < self.offsets[self.batch_size]

    @once
    def samples(self) -> Tensor:
        """int64 [S]: the sample of each packed token; of the fillers' the last one."""
        return self.segments.clamp(max=self.batch_size - 1)


def real_rows(sets: Sequence[IndexSet]) -> Tensor | None:
    """bool [S of all sets]: which of the sets' tokens, one set after the other, are real; None: all are."""
    masks = [one.real for one in sets]
    if all(mask is None for mask in masks):
        return None
    whole = (torch.ones_like(one.index, dtype=torch.bool) for one in sets)
    return torch.cat([all_ if mask is None else mask for mask, all_ in zip(masks, whole, strict=True)])
