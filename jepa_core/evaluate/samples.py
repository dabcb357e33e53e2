"""The samples that an evaluation looks at: which ones, with which labels, and what identifies them.

Axes: n samples of a split, B samples of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from jepa_core.data.eval_batches import EvalBatches, EvalLoader, NamedViewBatches, space_evenly
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.samples import InMemory, source_of
from jepa_core.errors import UserError
from jepa_core.protocols import Samples
from jepa_core.settings.sections import TransformSettings

_HASHED_IMAGES = 4096
"""Of samples in memory, which have no names, the pixels of so many go into the hash."""


@runtime_checkable
class Named(Protocol):
    """Samples with a name each, such as a path relative to the folder."""

    def keys(self) -> Sequence[str]:
        """A name for each sample, in order."""
        ...


class SplitLoader:
    """Batches (views [B, ...], labels int64 [B]) of some samples of a split, in order.

    `view` names the view, "" the first one; other ones are made by the run's transforms, `fields`. Raises
    UserError where there is no sample, and for a view that nobody makes.

    After a pass `positions` int64 [n] and `labels` int64 [n] are those of the samples that could be read.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: TransformSettings,
        view_shape: Sequence[int],
        batch_size: int,
        workers: int,
        index: Tensor,
        max_corrupt: float = 0.1,
        view: str = "",
        fields: FieldTransforms | None = None,
    ) -> None:
        if not len(index):
            raise UserError("there are no samples to evaluate on")
        self.samples = samples
        batches: EvalBatches | NamedViewBatches
        if not view:
            batches = EvalBatches(samples, transforms, view_shape, batch_size, index)
        elif fields is not None and f"views.{view}" in fields.outputs:
            batches = NamedViewBatches(samples, fields, view, batch_size, index, max_corrupt)
        else:
            raise UserError(
                f"the encoder {view!r} reads the view of its name, which {source_of(samples)} lacks"
            )
        self.loader = EvalLoader(batches, workers, max_corrupt)
        self.images, self.whole = len(index), len(samples)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.loader)

    @property
    def labels(self) -> Tensor:
        """int64 [n] of the last pass."""
        return self.loader.labels

    @property
    def positions(self) -> Tensor:
        """int64 [n] of the last pass: where each sample stands in the split."""
        return self.loader.positions

    def names(self) -> list[str]:
        """The name of each sample of the last pass; its position in a split without names."""
        positions = self.positions.tolist()
        if not isinstance(self.samples, Named):
            return [str(position) for position in positions]
        keys = self.samples.keys()
        return [keys[position] for position in positions]

    def fingerprint(self) -> str:
        """A hash of the names and labels of the last pass; of samples in memory also of their pixels."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join(self.names()).encode("utf-8", errors="surrogateescape"))
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        if isinstance(self.samples, InMemory):
            rows = self.positions[:: max(1, len(self.positions) // _HASHED_IMAGES)]
            images = self.samples.tensors()[0][rows]
            digest.update(np.ascontiguousarray(images.numpy()).tobytes())
        return digest.hexdigest()


def choose_samples(total: int, limit: int | None, draw: int | None) -> Tensor:
    """Ascending positions int64 [n] of the samples to look at, of `total`.

    `limit` takes so many, evenly spaced; `draw` the first so many of a fixed shuffle. A folder is sorted
    by class, so neither takes the first ones.
    """
    if draw is not None and draw < total:
        shuffle = torch.randperm(total, generator=torch.Generator().manual_seed(0))
        return shuffle[:draw].sort().values
    return space_evenly(total, limit)
