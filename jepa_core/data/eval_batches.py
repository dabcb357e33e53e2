"""Batches for evaluation: every sample once, in order, without randomness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from jepa_core.data.field_reader import FieldReader
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.images import CorruptSample, Skipped
from jepa_core.data.readers import ReadResult, check_corrupt
from jepa_core.data.samples import InMemory, read_sample, read_tensors
from jepa_core.data.transforms import eval_transform
from jepa_core.data.workers import iterate
from jepa_core.errors import UserError
from jepa_core.protocols import Samples
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.batch import Batch


class EvalLoader:
    """Iterates over (views float32 [B, *view shape], labels int64 [B]); `len()` is the number of batches.

    Corrupt samples are left out, and listed in `skipped`. After a pass `positions` and `labels`, int64 [n],
    are those of the samples that could be read.
    """

    def __init__(self, dataset: EvalBatches | FieldBatches, workers: int, max_corrupt: float) -> None:
        self.dataset, self.workers, self.max_corrupt = dataset, workers, max_corrupt
        self.images = len(dataset.index)
        self.skipped: list[Skipped] = []
        self._read: list[tuple[Tensor, Tensor]] = []

    @property
    def positions(self) -> Tensor:
        """int64 [n] of the last pass: where each sample stands in the split."""
        return torch.cat([positions for positions, _ in self._read])

    @property
    def labels(self) -> Tensor:
        """int64 [n] of the last pass."""
        return torch.cat([labels for _, labels in self._read])

    def __len__(self) -> int:
        return -(-self.images // self.dataset.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for result in self.results():
            yield result.views["view"], result.labels

    def results(self) -> Iterator[ReadResult]:
        """All batches that hold a sample, as they were read. Raises UserError where none can be read."""
        self.skipped, self._read, seen = [], [], 0
        for result in iterate(self.dataset, range(len(self)), self.workers):
            seen += len(result.labels) + len(result.skipped)
            self.skipped += result.skipped
            if result.skipped:
                check_corrupt(self.skipped, seen, self.max_corrupt)
            if len(result.labels):
                assert result.positions is not None
                self._read.append((result.positions, result.labels))
                yield result
        if len(self.skipped) == seen:
            raise UserError(f"none of {seen} samples can be read; the first: {self.skipped[0]}")


class EvalBatches(Dataset[ReadResult]):
    """`batches[i]` is the i-th batch; images in memory are transformed together."""

    def __init__(
        self,
        samples: Samples,
        settings: TransformSettings,
        view_shape: Sequence[int],
        batch_size: int,
        index: Tensor,
    ) -> None:
        self.samples, self.batch_size, self.index, self.view_shape = samples, batch_size, index, view_shape
        self.transform = eval_transform(settings, view_shape)
        self.tensors: tuple[Tensor, Tensor] | None = None
        if isinstance(samples, InMemory) and len(view_shape) == 3:
            self.tensors = read_tensors(samples)

    def __getitem__(self, number: int) -> ReadResult:
        rows = self.index[number * self.batch_size : (number + 1) * self.batch_size]
        if self.tensors is not None:
            images, labels = self.tensors
            return ReadResult({"view": self.transform(images[rows])}, labels[rows], positions=rows)
        return self._one_by_one(rows.tolist())

    def _one_by_one(self, rows: list[int]) -> ReadResult:
        views: list[Tensor] = []
        labels: list[int] = []
        positions: list[int] = []
        skipped: list[Skipped] = []
        for row in rows:
            try:
                sample, label = read_sample(self.samples, row, self.view_shape)
                view = self.transform(sample)
            except CorruptSample as error:
                skipped.append(error.record)
                continue
            views.append(view)
            labels.append(label)
            positions.append(row)
        stacked = torch.stack(views) if views else torch.empty(0)
        numbers, places = (torch.tensor(values, dtype=torch.int64) for values in (labels, positions))
        return ReadResult({"view": stacked}, numbers, tuple(skipped), positions=places)


class FieldBatches(Dataset[ReadResult]):
    """`batches[i]` is the i-th batch of some samples of a split, in order and without randomness."""

    def __init__(
        self,
        samples: Samples,
        transforms: FieldTransforms,
        batch_size: int,
        index: Tensor,
        max_corrupt: float,
    ) -> None:
        self.batch_size, self.index = batch_size, index
        self.reader = FieldReader(samples, transforms, max_corrupt)

    def __getitem__(self, number: int) -> ReadResult:
        rows = self.index[number * self.batch_size : (number + 1) * self.batch_size].tolist()
        return self.reader.read(iter(rows), len(rows), train=False)


class NamedViewBatches(FieldBatches):
    """The same, of one view alone, which is then called `view`."""

    def __init__(
        self,
        samples: Samples,
        transforms: FieldTransforms,
        view: str,
        batch_size: int,
        index: Tensor,
        max_corrupt: float,
    ) -> None:
        super().__init__(samples, transforms, batch_size, index, max_corrupt)
        self.view = view

    def __getitem__(self, number: int) -> ReadResult:
        result = super().__getitem__(number)
        return replace(result, views={"view": result.views[self.view]} if result.views else {"view": None})


class EvalFields:
    """Iterates over `Batch`es of some samples of a split, in order; corrupt ones are left out.

    After a pass `positions`, int64 [n], says which samples those were.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: FieldTransforms,
        index: Tensor,
        batch_size: int = 256,
        workers: int = 0,
        max_corrupt: float = 0.1,
    ) -> None:
        batches = FieldBatches(samples, transforms, batch_size, index, max_corrupt)
        self.loader = EvalLoader(batches, workers, max_corrupt)

    @property
    def positions(self) -> Tensor:
        """int64 [n] of the last pass: where each sample stands in the split."""
        return self.loader.positions

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return (result.to_batch() for result in self.loader.results())


def eval_loader(
    samples: Samples,
    transform_settings: TransformSettings,
    view_shape: Sequence[int],
    batch_size: int,
    workers: int = 0,
    limit: int | None = None,
    max_corrupt: float = 0.1,
) -> EvalLoader:
    """Batches of every sample in order, resized and centre-cropped to `view_shape`; of a recording, its
    middle.

    `limit` takes so many of them, evenly spaced: folders are sorted by class. Raises UserError where
    there are none; while iterating, where more than `max_corrupt` of them are corrupt.
    """
    if not len(samples):
        raise UserError("there are no samples to evaluate on")
    index = space_evenly(len(samples), limit)
    return EvalLoader(
        EvalBatches(samples, transform_settings, view_shape, batch_size, index), workers, max_corrupt
    )


def space_evenly(total: int, limit: int | None) -> Tensor:
    """Ascending positions int64 [n] of at most `limit` samples of `total`, evenly spaced; None: of all."""
    count = min(limit or total, total)
    return torch.arange(count) * total // max(1, count)
