"""Batches of samples with several named values: one sample at a time, or by columns that are in memory.

Axes: B samples of a batch, n samples of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from einops import rearrange
from PIL.Image import Image
from torch import Tensor

from jepa_core.data import batched_transforms as batched
from jepa_core.data.crops import Crops
from jepa_core.data.field_transforms.base import FollowsView
from jepa_core.data.field_transforms.crop import Crop
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.images import UNUSUAL, CorruptSample, Skipped
from jepa_core.data.named_samples import read_named, where
from jepa_core.data.readers import Reader, ReadResult, check_corrupt, global_randomness
from jepa_core.data.samples import ColumnSamples
from jepa_core.data.transforms import image_size
from jepa_core.errors import UserError
from jepa_core.protocols import Samples


def field_reader(samples: Samples, transforms: FieldTransforms, max_corrupt: float) -> Reader:
    """A `ColumnReader` where all values are in memory and can be transformed by the batch, else a
    `FieldReader`."""
    if isinstance(samples, ColumnSamples) and ColumnReader.takes(samples, transforms):
        return ColumnReader(samples, transforms)
    return FieldReader(samples, transforms, max_corrupt)


class FieldReader:
    """Batches of samples that are read and transformed one by one."""

    def __init__(self, samples: Samples, transforms: FieldTransforms, max_corrupt: float) -> None:
        self.samples, self.transforms, self.max_corrupt = samples, transforms, max_corrupt

    def __call__(self, indices: Iterator[int], batch_size: int, generator: torch.Generator) -> ReadResult:
        with global_randomness(generator):
            result = self.read(indices, batch_size, train=True)
        if len(result.labels) < batch_size:
            raise UserError(
                f"only {len(result.labels)} of {len(result.labels) + len(result.skipped)} samples can be "
                f"read, and a batch needs {batch_size}; the first that cannot: {result.skipped[0]}"
            )
        return result

    def read(self, indices: Iterator[int], batch_size: int, train: bool) -> ReadResult:
        """The next B samples that can be read; fewer where there are not as many."""
        rows: list[dict[str, list[Tensor]]] = []
        labels: list[int] = []
        positions: list[int] = []
        skipped: list[Skipped] = []
        unusual: list[str] = []
        for index in indices:
            try:
                sample = read_named(self.samples, index, self.transforms.fields)
                row = self.transforms(sample, where(self.samples, index, sample.key), train)
            except CorruptSample as error:
                skipped.append(error.record)
                check_corrupt(skipped, len(rows) + len(skipped), self.max_corrupt)
                continue
            for value in sample.views.values():
                unusual += value.info.get(UNUSUAL, ()) if isinstance(value, Image) else ()
            rows.append(row)
            labels.append(sample.label)
            positions.append(index)
            if len(rows) == batch_size:
                break
        parts = self.transforms.collate(rows)
        numbers, places = (torch.tensor(values, dtype=torch.int64) for values in (labels, positions))
        return ReadResult(
            parts["views"], numbers, tuple(skipped), tuple(unusual), places,
            parts["condition"], parts["side"], parts["targets"],
        )  # fmt: skip


class ColumnReader:
    """Batches of values in memory: images are cropped together, what does not draw is transformed once."""

    def __init__(self, samples: ColumnSamples, transforms: FieldTransforms) -> None:
        columns = samples.columns()
        self.transforms = transforms
        count = len(next(iter(columns.values())))
        self.labels = torch.as_tensor(columns["label"]) if "label" in columns else torch.full((count,), -1)
        self.images: dict[str, Tensor] = {}
        self.ready: dict[str, list[Tensor]] = {}
        for place, transform in transforms.transforms.items():
            if isinstance(transform, FollowsView):
                continue
            column = columns[place]
            if isinstance(transform, Crop):
                assert isinstance(column, Tensor)
                self.images[place] = rearrange(column, "n c h w -> n h w c")
            else:
                self.ready[place] = [
                    transforms.apply(place, column[index], f"{where(samples, index)}: {place}", train=False)
                    for index in range(count)
                ]

    @staticmethod
    def takes(samples: ColumnSamples, transforms: FieldTransforms) -> bool:
        """Whether nothing needs to be transformed sample by sample."""
        columns = samples.columns()
        for place, transform in transforms.transforms.items():
            if isinstance(transform, FollowsView):
                continue
            if place not in columns or transform.config.invalid == "skip":
                return False
            if transform.random and not (
                isinstance(transform, Crop)
                and isinstance(columns[place], Tensor)
                and len(transform.output.shape) == 3
                and all(
                    batched.applies(columns[place].shape, group.shape, group.settings)
                    for group in _crops_of(transform, place, transforms).values()
                )
            ):
                return False
        return True

    def __call__(self, indices: Iterator[int], batch_size: int, generator: torch.Generator) -> ReadResult:
        positions = list(islice(indices, batch_size))
        rows = torch.tensor(positions)
        transforms = self.transforms
        parts = transforms.collate(
            [
                {transforms.places[place]: [values[index]] for place, values in self.ready.items()}
                for index in positions
            ]
        )
        for place, images in self.images.items():
            chosen = images.index_select(0, rows)
            for name, group in _crops_of(self.transforms.transforms[place], place, self.transforms).items():
                repeated = chosen.repeat_interleave(group.per_sample, 0) if group.per_sample > 1 else chosen
                augmented = batched.augment(repeated, group.settings, image_size(group.shape), generator)
                parts["views"][name] = group.group(augmented)
        ordered = _in_order(parts["views"], self.transforms)
        return ReadResult(
            ordered, self.labels.index_select(0, rows), positions=rows,
            condition=parts["condition"], side=parts["side"], targets=parts["targets"],
        )  # fmt: skip


def _crops_of(crop: Any, place: str, transforms: FieldTransforms) -> dict[str, Crops]:
    """The crops that are made of an image, by the names of their views."""
    if place == transforms.first_place and transforms.groups:
        return dict(transforms.groups)
    return {place.partition(".")[2]: Crops(crop.config, crop.output.shape)}


def _in_order(views: dict[str, Any], transforms: FieldTransforms) -> dict[str, Any]:
    """The views in the order of the source's fields; the first one is the main encoder's."""
    names: Sequence[str] = [place[6:] for place in transforms.places.values() if place[:6] == "views."]
    order = [*transforms.groups, *names[1:]] if transforms.groups else names
    return {name: views[name] for name in order}
