"""Samples read and transformed into a step's views: whole batches from memory, or one sample at a time.

A corrupt sample is left out: its batch takes the next good one in the epoch's order.

Axes: B samples, V crops of each, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from einops import rearrange
from PIL.Image import Image
from torch import Tensor

from jepa_core.data import batched_transforms as batched
from jepa_core.data.crops import Crops, crops
from jepa_core.data.images import UNUSUAL, CorruptSample, Skipped
from jepa_core.data.samples import InMemory, read_sample, read_tensors
from jepa_core.data.transforms import image_size, train_transform
from jepa_core.errors import UserError
from jepa_core.protocols import Recording, Samples
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.batch import Batch

MIN_SEEN = 100
"""Samples that have to be read before the share of corrupt ones is compared with what is allowed."""


@dataclass(frozen=True, eq=False)
class ReadResult:
    """Views by name (see `Crops`), labels int64 [B], the corrupt samples that were left out, for each unusual
    image in which way (see `images.UNUSUAL`), where the samples stand in the split, int64 [B], and the other
    named values of samples that have some (see `types.batch.Batch`)."""

    views: Mapping[str, Any]
    labels: Tensor
    skipped: tuple[Skipped, ...] = ()
    unusual: tuple[str, ...] = ()
    positions: Tensor | None = None
    condition: Mapping[str, Any] = field(default_factory=dict)
    side: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)

    def to_batch(self, step: int = 0) -> Batch:
        """What was read as the batch of a step."""
        return Batch(self.views, self.condition or None, self.side, self.labels, step, self.targets)


Reader = Callable[[Iterator[int], int, torch.Generator], ReadResult]
"""(samples in the epoch's order from this step on, B, randomness) to the step's views."""


def reader(
    samples: Samples, settings: TransformSettings, view_shape: Sequence[int], max_corrupt: float
) -> Reader:
    """An `InMemoryReader` for small images in memory, else a `SampleReader`."""
    groups = crops(settings, view_shape)
    if isinstance(samples, InMemory) and len(view_shape) == 3:
        before = read_tensors(samples)[0].shape
        if all(batched.applies(before, group.shape, group.settings) for group in groups.values()):
            return InMemoryReader(samples, groups)
    return SampleReader(samples, groups, view_shape, max_corrupt)


class InMemoryReader:
    """Batches of samples in memory, transformed together, a group of crops at a time."""

    def __init__(self, samples: InMemory, groups: Mapping[str, Crops]) -> None:
        images, self.labels = read_tensors(samples)
        self.images = rearrange(images, "n c h w -> n h w c")
        self.groups = groups
        self.sizes = {name: image_size(group.shape) for name, group in groups.items()}

    def __call__(self, indices: Iterator[int], batch_size: int, generator: torch.Generator) -> ReadResult:
        rows = torch.tensor(list(islice(indices, batch_size)))
        images = self.images.index_select(0, rows)
        views = {}
        for name, group in self.groups.items():
            repeated = images.repeat_interleave(group.per_sample, 0) if group.per_sample > 1 else images
            augmented = batched.augment(repeated, group.settings, self.sizes[name], generator)
            views[name] = group.group(augmented)
        return ReadResult(views, self.labels.index_select(0, rows))


class SampleReader:
    """Batches of images or clips read and transformed one by one."""

    def __init__(
        self, samples: Samples, groups: Mapping[str, Crops], view_shape: Sequence[int], max_corrupt: float
    ) -> None:
        self.samples, self.groups, self.max_corrupt = samples, groups, max_corrupt
        self.view_shape = view_shape
        self.transforms = {name: train_transform(g.settings, g.shape) for name, g in groups.items()}

    def __call__(self, indices: Iterator[int], batch_size: int, generator: torch.Generator) -> ReadResult:
        views: dict[str, list[Tensor]] = {name: [] for name in self.groups}
        labels: list[int] = []
        skipped: list[Skipped] = []
        unusual: list[str] = []
        with global_randomness(generator):
            for index in indices:
                try:
                    sample, label = read_sample(self.samples, index, self.view_shape)
                    new_views = {name: self._views(name, sample) for name in self.groups}
                except CorruptSample as error:
                    skipped.append(error.record)
                    check_corrupt(skipped, len(labels) + len(skipped), self.max_corrupt)
                    continue
                if isinstance(sample, Image):
                    unusual += sample.info.get(UNUSUAL, ())
                for name in self.groups:
                    views[name] += new_views[name]
                labels.append(label)
                if len(labels) == batch_size:
                    stacked = {name: g.group(torch.stack(views[name])) for name, g in self.groups.items()}
                    return ReadResult(stacked, torch.tensor(labels), tuple(skipped), tuple(unusual))
        raise UserError(
            f"only {len(labels)} of {len(labels) + len(skipped)} samples can be read, and a batch needs "
            f"{batch_size}; the first that cannot: {skipped[0]}"
        )

    def _views(self, name: str, sample: Image | Tensor | Recording) -> list[Tensor]:
        """The V views that a group takes of one sample; the frames of a recording are read here."""
        return [self.transforms[name](sample) for _ in range(self.groups[name].per_sample)]


@contextmanager
def global_randomness(generator: torch.Generator) -> Iterator[None]:
    """torch's global CPU randomness (all that torchvision v2 draws from) starts as `generator`'s, and is
    put back after. `torch.manual_seed` would reseed the GPUs as well."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())
        yield


def check_corrupt(reports: Sequence[Skipped], seen: int, most: float, corrupt: int | None = None) -> None:
    """Raises UserError where more than the share `most` of the `seen` samples is corrupt."""
    corrupt = len(reports) if corrupt is None else corrupt
    if seen >= MIN_SEEN and corrupt > most * seen:
        raise UserError(
            f"{corrupt} of {seen} samples cannot be read ({corrupt / seen:.0%}; data.max_corrupt allows "
            f"{most:.0%}); the last: {reports[-1]}"
        )
