"""One training step's samples, images and masks, as a function of the step's number.

An epoch is a permutation of all samples, drawn from (seed, epoch). Rank r of w takes every w-th from r
on; what does not fill a whole batch on every rank is left out of that epoch (drop last). A corrupt
sample is passed over: its batch takes the next good one in the epoch's order.

Axes: B samples, h, w pixels before, H, W after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import torch
from einops import rearrange
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from jepa_core.data import batched
from jepa_core.data.images import ODD, CorruptSample, Skipped
from jepa_core.data.randomness import step_generator
from jepa_core.data.samples import Indices, InMemory
from jepa_core.data.settings import TransformSettings
from jepa_core.data.transforms import VIEWS, image_size, train_transform
from jepa_core.data.workers import one_thread
from jepa_core.errors import UserError
from jepa_core.protocols import Masker, Recording, Samples
from jepa_core.types import Batch, Device, Grid, MaskPlan

ENOUGH_SEEN = 100
"""Samples after which the share of corrupt ones is judged."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """One step's batch, its masks (None without a masker), and what was passed over or unusual."""

    step: int
    batch: Batch
    plan: MaskPlan | None
    skipped: tuple[Skipped, ...] = ()
    odd: tuple[str, ...] = ()
    """For each unusual image of the batch, in which way (see `images.ODD`)."""

    def to(self, device: Device, non_blocking: bool = False) -> Loaded:
        """The same on another device."""
        plan = self.plan.to(device, non_blocking) if self.plan is not None else None
        return replace(self, batch=self.batch.to(device, non_blocking), plan=plan)

    def pin_memory(self) -> Loaded:
        """The same in page-locked memory; called by torch's DataLoader."""
        return replace(
            self,
            batch=self.batch.pin_memory(),
            plan=self.plan.pin_memory() if self.plan is not None else None,
        )


@dataclass(frozen=True)
class Order:
    """Which samples each of `world` ranks sees at which step."""

    samples: int
    batch_size: int
    seed: int
    world: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches that every rank has in an epoch."""
        return self.samples // self.world // self.batch_size

    def epoch(self, number: int) -> Indices:
        """int64 [samples]: all samples of an epoch, in order."""
        return torch.randperm(self.samples, generator=step_generator(self.seed, 0, number, "order")).numpy()


@dataclass(frozen=True)
class StepMasks:
    """The masks of a rank's step, drawn from (seed, rank, step) alone."""

    masker: Masker
    grid: Grid
    total_steps: int
    seed: int

    def __call__(self, step: int, rank: int, batch_size: int) -> MaskPlan:
        """The plan for this step (0-based) of `total_steps`."""
        progress = min(1.0, step / max(1, self.total_steps))
        generator = step_generator(self.seed, rank, step, "masks")
        return self.masker(self.grid, batch_size, generator, progress)


@dataclass(frozen=True, eq=False)
class Picked:
    """Views by name (see `Crops`), labels int64 [B], and what was passed over or unusual."""

    views: Mapping[str, Tensor]
    labels: Tensor
    skipped: tuple[Skipped, ...] = ()
    odd: tuple[str, ...] = ()


Reader = Callable[[Iterator[int], int, torch.Generator], Picked]
"""(samples in the epoch's order from this step on, B, randomness) to the step's views."""


class Steps(Dataset[Loaded]):
    """`steps[s, r]` is rank r's batch of step s. One epoch's order is kept, for its steps share it."""

    def __init__(self, order: Order, read: Reader, masks: StepMasks | None) -> None:
        self.order, self.read, self.masks = order, read, masks
        self._epoch: tuple[int, Indices] | None = None

    def __getitem__(self, item: tuple[int, int]) -> Loaded:
        step, rank = item
        generator = step_generator(self.order.seed, rank, step, "transform")
        with one_thread():
            picked = self.read(self._from(step, rank), self.order.batch_size, generator)
        plan = self.masks(step, rank, self.order.batch_size) if self.masks else None
        batch = Batch(picked.views, labels=picked.labels, step=step)
        return Loaded(step, batch, plan, picked.skipped, picked.odd)

    def _from(self, step: int, rank: int) -> Iterator[int]:
        """The rank's samples of the epoch from this step's first on, and round to the one before it."""
        epoch, position = divmod(step, self.order.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self.order.epoch(epoch))
        start, share = position * self.order.batch_size, self.order.samples // self.order.world
        own = self._epoch[1][rank :: self.order.world]
        return (int(own[(start + k) % share]) for k in range(share))


@dataclass(frozen=True)
class Crops:
    """V random crops of each sample: views float32 [B, V, 3, H, W], or [B, 3, H, W] where `count` is None;
    of clips [B, V, 3, T, H, W], or [B, 3, T, H, W]."""

    settings: TransformSettings
    shape: tuple[int, ...]
    count: int | None = None

    @property
    def each(self) -> int:
        """V."""
        return self.count or 1

    def batch_shape(self, samples: int) -> tuple[int, ...]:
        """Shape of the views of B samples."""
        return (samples, *self.shape) if self.count is None else (samples, self.count, *self.shape)

    def grouped(self, views: Tensor) -> Tensor:
        """The views [B·V, ...], one sample's after the other's, with V as an axis where it is one."""
        return views if self.count is None else rearrange(views, "(b v) ... -> b v ...", v=self.count)


def crops(settings: TransformSettings, view_shape: Sequence[int]) -> dict[str, Crops]:
    """The groups that the settings name, or one crop, `image` or `video`; `view_shape` is the encoder's."""
    return {
        name: Crops(settings.of_view(view), view.shape(view_shape), view.count)
        for name, view in settings.views.items()
    } or {VIEWS.get(len(view_shape), "view"): Crops(settings, tuple(view_shape))}


def reader(
    samples: Samples, settings: TransformSettings, view_shape: Sequence[int], max_corrupt: float
) -> Reader:
    """Whole batches where the samples are small images in memory, else one by one."""
    groups = crops(settings, view_shape)
    if isinstance(samples, InMemory) and len(view_shape) == 3:
        before = samples.tensors()[0].shape
        if all(batched.applies(before, group.shape) for group in groups.values()):
            return ArrayReader(samples, groups)
    return OneByOne(samples, groups, max_corrupt)


class ArrayReader:
    """Batches of samples in memory, transformed together, a group of crops at a time."""

    def __init__(self, samples: InMemory, groups: Mapping[str, Crops]) -> None:
        images, self.labels = samples.tensors()
        self.images = rearrange(images, "n c h w -> n h w c")
        self.groups = groups
        self.sizes = {name: image_size(group.shape) for name, group in groups.items()}

    def __call__(self, indices: Iterator[int], batch_size: int, generator: torch.Generator) -> Picked:
        rows = torch.tensor(list(islice(indices, batch_size)))
        images = self.images.index_select(0, rows)
        views = {}
        for name, group in self.groups.items():
            repeated = images.repeat_interleave(group.each, 0) if group.each > 1 else images
            augmented = batched.augment(repeated, group.settings, self.sizes[name], generator)
            views[name] = group.grouped(augmented)
        return Picked(views, self.labels.index_select(0, rows))


class OneByOne:
    """Batches of images or clips read and transformed one by one."""

    def __init__(self, samples: Samples, groups: Mapping[str, Crops], max_corrupt: float) -> None:
        self.samples, self.groups, self.max_corrupt = samples, groups, max_corrupt
        self.transforms = {name: train_transform(g.settings, g.shape) for name, g in groups.items()}

    def __call__(self, indices: Iterator[int], batch_size: int, generator: torch.Generator) -> Picked:
        views: dict[str, list[Tensor]] = {name: [] for name in self.groups}
        labels: list[int] = []
        skipped: list[Skipped] = []
        odd: list[str] = []
        with global_randomness(generator):
            for index in indices:
                try:
                    sample, label = self.samples[index]
                    made = {name: self._views(name, sample) for name in self.groups}
                except CorruptSample as error:
                    skipped.append(error.record)
                    check_corrupt(skipped, len(labels) + len(skipped), self.max_corrupt)
                    continue
                if isinstance(sample, Image):
                    odd += sample.info.get(ODD, ())
                for name in self.groups:
                    views[name] += made[name]
                labels.append(label)
                if len(labels) == batch_size:
                    stacked = {name: g.grouped(torch.stack(views[name])) for name, g in self.groups.items()}
                    return Picked(stacked, torch.tensor(labels), tuple(skipped), tuple(odd))
        raise UserError(
            f"only {len(labels)} of {len(labels) + len(skipped)} samples can be read, and a batch needs "
            f"{batch_size}; the first that cannot: {skipped[0]}"
        )

    def _views(self, name: str, sample: Image | Tensor | Recording) -> list[Tensor]:
        """A group's views of one sample; a recording is read here."""
        return [self.transforms[name](sample) for _ in range(self.groups[name].each)]


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
    if seen >= ENOUGH_SEEN and corrupt > most * seen:
        raise UserError(
            f"{corrupt} of {seen} samples cannot be read ({corrupt / seen:.0%}; data.max_corrupt allows "
            f"{most:.0%}); the last: {reports[-1]}"
        )
