"""What is asked of data sources (`protocols.Source`, `Samples`): a step's samples depend on its number alone.

These checks read data, those that the settings name: up to `LOOK` samples of a split, evenly spread.

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
from jepa_core.errors import UserError
from jepa_core.protocols import Recording, Samples
from jepa_core.testing.outcomes import NotAsked, require, untouched_randomness
from jepa_core.testing.subject import Subject

LOOK = 16
FRAMES = 2
"""Of a recording that are looked at."""
FEW = 1000
"""Training samples up to which all are compared with those held out."""

Seen = tuple[bytes, tuple[int, ...], int] | str
"""A sample as it was seen: pixels, shape and label; of a corrupt one, why it cannot be read."""


@dataclass(frozen=True)
class SourceCase:
    """A source with its settings."""

    subject: Subject

    def make(self) -> Any:
        """A fresh one."""
        return self.subject.component(self.subject.config)

    @cached_property
    def splits(self) -> dict[str, Samples]:
        """Those of train, val and test that there are. Raises UserError where the training split is not."""
        source, found = self.make(), {}
        for name in ("train", "val", "test"):
            try:
                found[name] = source.split(name)
            except UserError:
                if name == "train":
                    raise
        return found

    def spread(self) -> Iterator[tuple[str, Samples, list[int]]]:
        """(split, samples, indices to look at) of each split."""
        for name, samples in self.splits.items():
            count = len(samples)
            yield name, samples, sorted({round(i * (count - 1) / (LOOK - 1)) for i in range(LOOK)})


def seen(samples: Samples, index: int) -> Seen:
    """A sample, so that it can be compared with another."""
    try:
        value, label = samples[index]
        value = _opened(value)
    except CorruptSample as corrupt:
        return f"{corrupt.record.kind}: {corrupt.record}"
    pixels = np.asarray(value) if isinstance(value, Image) else value.numpy()
    return pixels.tobytes(), tuple(pixels.shape), int(label)


def _opened(value: Image | Tensor | Recording) -> Image | Tensor:
    """What can be looked at; of a recording its first window of two frames."""
    if isinstance(value, Image | Tensor):
        return value
    return value.window(value.starts(FRAMES)[0], FRAMES)


def splits(case: SourceCase) -> None:
    """There is a training split; one that there is not is refused in one line, and so is an unknown name."""
    empty = [name for name, samples in case.splits.items() if not len(samples)]
    require(not empty, f"splits without samples: {', '.join(empty)}")
    for name in ("val", "test", "tset"):
        if name not in case.splits:
            _refuses(case, name)


def _refuses(case: SourceCase, name: str) -> None:
    try:
        case.make().split(name)
    except UserError as error:
        require("\n" not in str(error), f"what is said of the split {name!r} is longer than a line: {error}")
        return
    require(False, f"a split {name!r} is no error")


def samples(case: SourceCase) -> None:
    """Each is an image, a uint8 tensor [C, h, w] of one or three channels, or a recording of such frames."""
    for split, held, indices in case.spread():
        for index in indices:
            _look(held, index, f"sample {index} of {split}")


def _look(held: Samples, index: int, where: str) -> None:
    try:
        value = _opened(held[index][0])
    except CorruptSample:
        return
    if isinstance(value, Image):
        return
    require(isinstance(value, Tensor), f"{where} is a {type(value).__name__}; expected an image or a tensor")
    shape = list(value.shape)
    require(value.dtype == torch.uint8, f"{where} is {value.dtype}; expected uint8")
    fits = len(shape) >= 3 and shape[-3] in (1, 3) and all(shape)
    require(fits, f"{where} is {shape}; expected [C, h, w], C of 1 or 3")


def labels(case: SourceCase) -> None:
    """A label is one of the classes, numbered from 0 alike in all splits, or -1 where there is none."""
    named = {name: held.classes and tuple(held.classes) for name, held in case.splits.items()}
    require(len(set(named.values())) == 1, f"the splits have other classes: {named}")
    for split, held, indices in case.spread():
        most = len(held.classes or ())
        for sample, index in ((seen(held, index), index) for index in indices):
            if not isinstance(sample, str):
                label = sample[2]
                said = f"sample {index} of {split} has label {label}; there are {most} classes"
                require(label == -1 or 0 <= label < most, said)


def by_index(case: SourceCase) -> None:
    """A sample follows from its index: in any order, a second time, from another source of these settings."""
    again = case.make()
    for split, held, indices in case.spread():
        with untouched_randomness():
            first = [seen(held, index) for index in indices]
        second = [seen(held, index) for index in reversed(indices)][::-1]
        other = again.split(split)
        require(len(other) == len(held), f"{split} has {len(held)} samples, the second time {len(other)}")
        _same(first, second, indices, f"of {split} is another the second time")
        _same(first, [seen(other, i) for i in indices], indices, f"of {split} is another from another source")


def travels(case: SourceCase) -> None:
    """A split can be sent to a worker process, and has the same samples there."""
    for split, held, indices in case.spread():
        sent = pickle.loads(pickle.dumps(held))
        require(len(sent) == len(held), f"{split} arrives with {len(sent)} of {len(held)} samples")
        found, expected = ([seen(each, index) for index in indices] for each in (sent, held))
        _same(expected, found, indices, f"of {split} is another in a worker")


def _same(expected: list[Seen], found: list[Seen], indices: list[int], said: str) -> None:
    other = [i for i, one, two in zip(indices, expected, found, strict=True) if one != two]
    require(not other, f"sample {other[0] if other else ''} {said}")


def held_out(case: SourceCase) -> None:
    """No sample that is held out is also trained on (asked of splits of up to 1,000 training samples)."""
    train = case.splits["train"]
    if len(case.splits) == 1 or len(train) > FEW:
        raise NotAsked("there is one split" if len(case.splits) == 1 else f"{len(train)} training samples")
    known = {_pixels(seen(train, index)): index for index in range(len(train))}
    for split, held, indices in case.spread():
        for index in indices if split != "train" else ():
            sample = seen(held, index)
            twin = None if isinstance(sample, str) else known.get(_pixels(sample))
            require(twin is None, f"sample {index} of {split} is sample {twin} of train")


def _pixels(sample: Seen) -> Seen | tuple[bytes, tuple[int, ...]]:
    return sample if isinstance(sample, str) else sample[:2]


def corrupt(case: SourceCase) -> None:
    """A sample that cannot be read raises CorruptSample with its place and the reason, each time."""
    found = [
        (split, held, index)
        for split, held, indices in case.spread()
        for index in (range(len(held)) if len(held) <= FEW else indices)
        if isinstance(seen(held, index), str)
    ]
    if not found:
        raise NotAsked("every sample that was looked at can be read; give data with a damaged one")
    for split, held, index in found:
        first, second = seen(held, index), seen(held, index)
        require(first == second, f"sample {index} of {split}: {first}, the second time {second}")
        record = _record(held, index)
        require(bool(record.path and record.reason), f"sample {index} of {split}: place or reason is missing")


def _record(held: Samples, index: int) -> Any:
    try:
        held[index]
    except CorruptSample as error:
        return error.record
    raise AssertionError("it was corrupt a moment ago")


CHECKS = (splits, samples, labels, by_index, travels, held_out, corrupt)
