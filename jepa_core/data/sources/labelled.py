"""`labelled`: the labelled training images of another source, or a seeded draw of so many of each class.

    [data]
    name = "labelled"
    per_class = 12
    [data.source]
    name = "cifar10"

For fine-tuning and probes with few labels. `val` and `test` stay whole. Of a source that can be labelled in
several ways (`protocols.Tasks`) `task` says how. A larger draw with the same seed holds the smaller one.

Axes: n samples of the training split.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import numpy as np
import torch
from pydantic import Field as Setting
from pydantic import PositiveInt

from jepa_core.data.images import CorruptSample
from jepa_core.data.named_samples import source_fields
from jepa_core.data.samples import (
    BaseSamples,
    ColumnSamples,
    Indices,
    InMemory,
    Selection,
    class_number,
    source_of,
)
from jepa_core.data.sources.nested import build_source
from jepa_core.errors import UserError, unknown
from jepa_core.protocols import Samples, Source, Tasks
from jepa_core.settings.base import SourceSettings
from jepa_core.types.fields import first_view
from jepa_core.types.sample import Fields, Sample

log = logging.getLogger("jepa")


class LabelledSource:
    """The first views of another source with their labels, of its training split those that have one."""

    class Config(SourceSettings):
        """Settings of the draw."""

        source: dict[str, Any] = Setting(default_factory=dict)
        """The source: a table as [data] is."""
        per_class: int | None = Setting(None, ge=1)
        """Labelled training samples of each class that are kept; by default all."""
        share: float | None = Setting(None, gt=0, le=1)
        """Share of the labelled training samples of each class that is kept, at least one; by default all."""
        draw_seed: int = Setting(0, ge=0)
        """Which samples are kept. It stands apart from the run's seed, so that runs can be compared."""
        task: str | None = None
        """Which labels, where the source has several (its `tasks`); by default its classes."""
        view_shape: list[PositiveInt] | None = None
        """The shape of the views that a task labels, (3, H, W) or (3, T, H, W): needed with `task`."""

        def check(self) -> None:
            """Raises UserError for settings that exclude each other, and for a source that is none."""
            if self.per_class is not None and self.share is not None:
                raise UserError("data.per_class and data.share both say how many labels; give one of them")
            if self.task is not None and self.view_shape is None:
                raise UserError("data.task needs data.view_shape, such as [3, 64, 64]")
            check_task(build_source(self.source, "data.source"), self.task)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.source: Source = build_source(config.source, "data.source")

    def fields(self) -> Fields | None:
        """None: samples are images, or clips, and a class. Raises UserError for a source of other views."""
        fields = source_fields(self.source)
        view = first_view(fields)
        if view is None or fields[f"views.{view}"].kind not in ("image", "clip"):
            kind = "none" if view is None else fields[f"views.{view}"].kind
            raise UserError(
                f"the first view of the source {self.config.source['name']!r} is of the kind {kind}; "
                "labelled takes images and clips"
            )
        return None

    def split(self, name: str) -> Samples:
        """`train`: the draw. `val` and `test`: all. Raises UserError for data without labels, and too few."""
        samples = self._whole(name)
        if not samples.classes:
            raise UserError(
                f"the {name} split of {source_of(samples)} has no labels; expected samples with classes"
            )
        return draw_labelled(samples, self.config) if name == "train" else samples

    def _whole(self, name: str) -> Samples:
        task, shape = self.config.task, self.config.view_shape
        if task is None or shape is None:
            return self.source.split(name)
        assert isinstance(self.source, Tasks)
        return self.source.labelled_samples(task, name, shape)


def check_task(source: Source, task: str | None) -> None:
    """Raises UserError for a task that the source does not have."""
    if task is None:
        return
    tasks = list(source.tasks()) if isinstance(source, Tasks) else []
    if not tasks:
        raise UserError(f"task {task!r}: the data can be labelled in one way only; leave the task out")
    if task not in tasks:
        raise unknown("task", task, tasks)


def draw_labelled(samples: Samples, config: LabelledSource.Config) -> Samples:
    """The samples that have a label, or the settings' draw of them, in their order.

    Raises UserError where no sample has a label, and where a class has fewer than are asked for.
    """
    labels, classes = read_labels(samples), samples.classes or ()
    total = int((labels >= 0).sum())
    if not total:
        raise UserError(f"no training sample of {source_of(samples)} has a label")
    chosen = [
        draw_of_class(np.flatnonzero(labels == number), str(name), config)
        for number, name in enumerate(classes)
    ]
    index = np.sort(np.concatenate(chosen))
    if len(index) == len(labels):
        return samples
    note = f"{samples.note}; {len(index):,} of {total:,} labelled samples, draw {config.draw_seed}"
    return samples.take(index, note) if isinstance(samples, BaseSamples) else Selection(samples, index, note)


def draw_of_class(positions: Indices, name: str, config: LabelledSource.Config) -> Indices:
    """The drawn ones of the positions of a class. Raises UserError where these are too few."""
    wanted = len(positions)
    if config.per_class is not None:
        wanted = config.per_class
    elif config.share is not None:
        wanted = min(max(1, round(config.share * len(positions))), len(positions))
    if wanted > len(positions):
        raise UserError(
            f"data.per_class is {wanted:,}, and the class {name!r} has {len(positions):,} labelled training "
            "samples"
        )
    digest = hashlib.blake2b(f"{config.draw_seed}/{name}".encode(errors="surrogateescape"), digest_size=7)
    generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()))
    order = torch.randperm(len(positions), generator=generator).numpy()
    return positions[order[:wanted]]


def read_labels(samples: Samples) -> Indices:
    """int64 [n]: the label of each sample, -1 for none and for a sample that cannot be read.

    Of samples that do not hold their labels apart, each is read. Raises UserError for a label that is none.
    """
    if isinstance(samples, InMemory):
        return samples.tensors()[1].numpy()
    if isinstance(samples, ColumnSamples) and "label" in (columns := samples.columns()):
        return np.asarray(columns["label"], dtype=np.int64)
    numbers = samples.class_numbers() if isinstance(samples, BaseSamples) else None
    if numbers is not None:
        return numbers
    where = source_of(samples)
    log.info("reading %d samples of %s for their labels", len(samples), where)
    labels = [_label(samples, index) for index in range(len(samples))]
    checked = [
        class_number(label, samples.classes, f"sample {i} of {where}") for i, label in enumerate(labels)
    ]
    return np.array(checked, dtype=np.int64)


def _label(samples: Samples, index: int) -> Any:
    try:
        sample = samples[index]
    except CorruptSample:
        return -1
    return sample.label if isinstance(sample, Sample) else sample[1]
