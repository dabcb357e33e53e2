"""The samples that an evaluation looks at: which ones, with which labels, and what identifies them.

What is unusual: labels travel through the loaders together with the position of their sample, as int64
[B, 2], so that after corrupt samples were passed over every feature still knows which sample it is of.

Axes: n samples of a split, B samples of a batch.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from jepa_core.data.eval_batches import EvalBatches, EvalLoader
from jepa_core.data.samples import InMemory
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


class Numbered:
    """`Samples` whose label is the pair (label, position), checked: whole numbers from -1 to the last class.

    Raises UserError, naming the source and the sample, for any other label.
    """

    def __init__(self, samples: Samples, source: str) -> None:
        self.samples, self.source = samples, source
        self.classes, self.note = samples.classes, samples.note

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item = self.samples[index]
        try:
            sample, label = item
        except (TypeError, ValueError):
            size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise UserError(
                f"sample {index} of the source {self.source!r} is a {type(item).__name__}{size}; "
                "expected a pair (image, label)"
            ) from None
        return sample, (self.check_label(label, index), index)

    def check_label(self, label: Any, index: int) -> int:
        """The label as an int. Raises UserError for one that is not a whole number or no class."""
        count = len(self.classes) if self.classes else None
        try:
            number = operator.index(label)
        except (TypeError, RuntimeError, ValueError):
            number = None
        if number is None or number < -1 or (count is not None and number >= count):
            shown = f"{label!r}"[:60]
            known = f"a whole number from 0 to {count - 1}" if count else "a whole number, -1 for none"
            raise UserError(
                f"sample {index} of the source {self.source!r} has the label {shown}; expected {known}"
            )
        return number


class NumberedInMemory(Numbered):
    """The same for samples in memory, whose batches are transformed together."""

    def tensors(self) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, h, w] and int64 [n, 2]."""
        assert isinstance(self.samples, InMemory)
        images, labels = self.samples.tensors()
        return images, torch.stack([labels, torch.arange(len(labels))], dim=1)

    def check_all(self) -> None:
        """Raises UserError for the first label that is not a whole number or no class."""
        assert isinstance(self.samples, InMemory)
        labels = self.samples.tensors()[1]
        most = len(self.classes) - 1 if self.classes else torch.iinfo(torch.int64).max
        wrong = (labels < -1) | (labels > most)
        if labels.is_floating_point():
            wrong |= torch.ones_like(wrong)
        for index in wrong.nonzero()[:1, 0].tolist():
            self.check_label(labels[index].item(), index)


def numbered(samples: Samples, source: str) -> Numbered:
    """A split whose labels carry the position of their sample; `source` names it in errors."""
    if isinstance(samples, InMemory):
        whole = NumberedInMemory(samples, source)
        whole.check_all()
        return whole
    return Numbered(samples, source)


class SplitLoader:
    """Batches (views [B, ...], labels int64 [B]) of some samples of a split, in order.

    After a pass `positions` int64 [n] and `labels` int64 [n] are those of the samples that could be read.
    """

    def __init__(
        self,
        samples: Samples,
        source: str,
        transforms: TransformSettings,
        view_shape: Sequence[int],
        batch_size: int,
        workers: int,
        index: Tensor,
        max_corrupt: float = 0.1,
    ) -> None:
        if not len(index):
            raise UserError("there are no samples to evaluate on")
        self.samples = samples
        batches = EvalBatches(numbered(samples, source), transforms, view_shape, batch_size, index)
        self.loader = EvalLoader(batches, workers, max_corrupt)
        self.images, self.whole = len(index), len(samples)
        self._pairs: list[Tensor] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._pairs = []
        for views, pairs in self.loader:
            self._pairs.append(pairs)
            yield views, pairs[:, 0]

    @property
    def labels(self) -> Tensor:
        """int64 [n] of the last pass."""
        return torch.cat(self._pairs)[:, 0]

    @property
    def positions(self) -> Tensor:
        """int64 [n] of the last pass: where each sample stands in the split."""
        return torch.cat(self._pairs)[:, 1]

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


def choose_samples(total: int, limit: int | None, drawn: int | None) -> Tensor:
    """Ascending positions int64 [n] of the samples to look at, of `total`.

    `limit` takes so many, evenly spaced; `drawn` the first so many of a fixed shuffle. A folder is sorted
    by class, so neither takes the first ones.
    """
    if drawn is not None and drawn < total:
        shuffle = torch.randperm(total, generator=torch.Generator().manual_seed(0))
        return shuffle[:drawn].sort().values
    wanted = min(limit or total, total)
    return torch.arange(wanted) * total // max(1, wanted)
