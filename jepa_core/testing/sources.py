"""Checks of data sources (`protocols.Source`, `Samples`).

They read the data that the settings name: up to `CHECKED` samples of each split, evenly spaced.

Axes: C channels, h, w pixels.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from jepa_core.data.images import CorruptSample
from jepa_core.data.named_samples import read_named, source_fields
from jepa_core.errors import UserError
from jepa_core.protocols import DescribesFields, Recording, Samples
from jepa_core.testing.outcomes import NotAsked, require, untouched_randomness
from jepa_core.testing.subject import Subject
from jepa_core.types.sample import Fields, Sample

CHECKED = 16
FRAMES = 2
"""Frames that are read of a recording."""
FEW = 1000
"""Training samples up to which all of them are compared with the held-out ones."""

SampleReading = tuple[bytes, tuple[Any, ...], int] | str
"""A sample in comparable form: (values, shapes, label); of a corrupt one, why it cannot be read."""


@dataclass(frozen=True)
class SourceCase:
    """A source with its settings."""

    subject: Subject

    def make(self) -> Any:
        """A new one."""
        return self.subject.component(self.subject.config)

    @cached_property
    def splits(self) -> dict[str, Samples]:
        """The splits among train, val and test that exist. Raises UserError without a training split."""
        source, splits = self.make(), {}
        for name in ("train", "val", "test"):
            try:
                splits[name] = source.split(name)
            except UserError:
                if name == "train":
                    raise
        return splits

    def spread(self) -> Iterator[tuple[str, Samples, list[int]]]:
        """(split, samples, indices to check) of each split."""
        for name, samples in self.splits.items():
            size = len(samples)
            yield name, samples, sorted({round(i * (size - 1) / (CHECKED - 1)) for i in range(CHECKED)})


def read_sample(samples: Samples, index: int) -> SampleReading:
    """Reads a sample into a form that can be compared."""
    try:
        sample = samples[index]
        if isinstance(sample, Sample):
            parts = [_comparable(value) for value in sample.values().values()]
            return b"".join(part for part, _ in parts), tuple(shape for _, shape in parts), int(sample.label)
        return *_comparable(sample[0]), int(sample[1])
    except CorruptSample as corrupt:
        return f"{corrupt.record.kind}: {corrupt.record}"


def _comparable(value: Any) -> tuple[bytes, tuple[int, ...]]:
    """(bytes, shape) of a value."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape"), (len(value),)
    if isinstance(value, Recording):
        value = _open_sample(value)
    numbers = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    return numbers.tobytes(), tuple(numbers.shape)


def _open_sample(value: Image | Tensor | Recording) -> Image | Tensor:
    """The image or tensor itself; of a recording its first window of `FRAMES` frames."""
    if isinstance(value, Image | Tensor):
        return value
    window = value.window(value.starts(FRAMES)[0], FRAMES)
    return next(iter(window.views.values())) if isinstance(window, Sample) else window


def splits(case: SourceCase) -> None:
    """There is a training split; one that there is not is refused in one line, and so is an unknown name."""
    empty = [name for name, samples in case.splits.items() if not len(samples)]
    require(not empty, f"splits without samples: {', '.join(empty)}")
    for name in ("val", "test", "tset"):
        if name not in case.splits:
            _require_refusal(case, name)


def _require_refusal(case: SourceCase, name: str) -> None:
    try:
        case.make().split(name)
    except UserError as error:
        require("\n" not in str(error), f"what is said of the split {name!r} is longer than a line: {error}")
        return
    require(False, f"a split {name!r} is no error")


def samples(case: SourceCase) -> None:
    """Each is an image, a uint8 tensor [C, h, w] of one or three channels, a recording of such frames, or a
    `Sample` whose values are what the source says of its fields."""
    source = case.make()
    fields = source_fields(source) if isinstance(source, DescribesFields) and source.fields() else None
    for split, samples, indices in case.spread():
        for index in indices:
            if fields is None:
                _require_sample(samples, index, f"sample {index} of {split}")
            else:
                _require_fields(samples, index, fields)


def _require_fields(samples: Samples, index: int, fields: Fields) -> None:
    try:
        read_named(samples, index, fields)
    except CorruptSample:
        return
    except UserError as error:
        require(False, str(error))


def _require_sample(samples: Samples, index: int, place: str) -> None:
    try:
        sample = samples[index]
        require(not isinstance(sample, Sample), f"{place} is a Sample, and the source has no fields()")
        value = _open_sample(sample[0])  # type: ignore[index]  # a pair, as was just asked
    except CorruptSample:
        return
    if isinstance(value, Image):
        return
    require(isinstance(value, Tensor), f"{place} is a {type(value).__name__}; expected an image or a tensor")
    shape = list(value.shape)
    require(value.dtype == torch.uint8, f"{place} is {value.dtype}; expected uint8")
    fits = len(shape) >= 3 and shape[-3] in (1, 3) and all(shape)
    require(fits, f"{place} is {shape}; expected [C, h, w], C of 1 or 3")


def labels(case: SourceCase) -> None:
    """A label is one of the classes, numbered from 0 alike in all splits, or -1 where there is none."""
    classes = {name: samples.classes and tuple(samples.classes) for name, samples in case.splits.items()}
    require(len(set(classes.values())) == 1, f"the splits have other classes: {classes}")
    for split, samples, indices in case.spread():
        count = len(samples.classes or ())
        for sample, index in ((read_sample(samples, index), index) for index in indices):
            if not isinstance(sample, str):
                label = sample[2]
                message = f"sample {index} of {split} has label {label}; there are {count} classes"
                require(label == -1 or 0 <= label < count, message)


def by_index(case: SourceCase) -> None:
    """A sample follows from its index: in any order, a second time, from another source of these settings."""
    source = case.make()
    for split, samples, indices in case.spread():
        with untouched_randomness():
            first = [read_sample(samples, index) for index in indices]
        second = [read_sample(samples, index) for index in reversed(indices)][::-1]
        reread = source.split(split)
        require(
            len(reread) == len(samples), f"{split} has {len(samples)} samples, the second time {len(reread)}"
        )
        _require_same(first, second, indices, f"of {split} is another the second time")
        _require_same(
            first,
            [read_sample(reread, i) for i in indices],
            indices,
            f"of {split} is another from another source",
        )


def travels(case: SourceCase) -> None:
    """A split can be sent to a worker process, and has the same samples there."""
    for split, samples, indices in case.spread():
        received = pickle.loads(pickle.dumps(samples))
        require(
            len(received) == len(samples), f"{split} arrives with {len(received)} of {len(samples)} samples"
        )
        actual, expected = ([read_sample(part, index) for index in indices] for part in (received, samples))
        _require_same(expected, actual, indices, f"of {split} is another in a worker")


def _require_same(
    expected: list[SampleReading], actual: list[SampleReading], indices: list[int], message: str
) -> None:
    different = [i for i, left, right in zip(indices, expected, actual, strict=True) if left != right]
    require(not different, f"sample {different[0] if different else ''} {message}")


def held_out(case: SourceCase) -> None:
    """No sample that is held out is also trained on (asked of splits of up to 1,000 training samples)."""
    train = case.splits["train"]
    if len(case.splits) == 1 or len(train) > FEW:
        raise NotAsked("there is one split" if len(case.splits) == 1 else f"{len(train)} training samples")
    trained = {_pixels(read_sample(train, index)): index for index in range(len(train))}
    for split, samples, indices in case.spread():
        for index in indices if split != "train" else ():
            sample = read_sample(samples, index)
            duplicate = None if isinstance(sample, str) else trained.get(_pixels(sample))
            require(duplicate is None, f"sample {index} of {split} is sample {duplicate} of train")


def _pixels(sample: SampleReading) -> SampleReading | tuple[bytes, tuple[Any, ...]]:
    return sample if isinstance(sample, str) else sample[:2]


def corrupt(case: SourceCase) -> None:
    """A sample that cannot be read raises CorruptSample with its place and the reason, each time."""
    corrupt_samples = [
        (split, samples, index)
        for split, samples, indices in case.spread()
        for index in (range(len(samples)) if len(samples) <= FEW else indices)
        if isinstance(read_sample(samples, index), str)
    ]
    if not corrupt_samples:
        raise NotAsked("every sample that was looked at can be read; give data with a damaged one")
    for split, samples, index in corrupt_samples:
        first, second = read_sample(samples, index), read_sample(samples, index)
        require(first == second, f"sample {index} of {split}: {first}, the second time {second}")
        record = _record(samples, index)
        require(bool(record.path and record.reason), f"sample {index} of {split}: place or reason is missing")


def _record(samples: Samples, index: int) -> Any:
    try:
        samples[index]
    except CorruptSample as error:
        return error.record
    raise AssertionError("it was corrupt a moment ago")


CHECKS = (splits, samples, labels, by_index, travels, held_out, corrupt)
