"""Stretches of video files: the windows of frames that a sample offers, in its split's part of the file.

Axes: F frames of a file, T frames of a window, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa_core.data import BaseSamples, CorruptSample
from jepa_core.data.images import MAX_PIXELS
from jepa_core.data.samples import Files
from jepa_vjepa.decoding import VideoFile

Share = tuple[float, float]
"""A part of every file, from 0 to 1."""
ANYWHERE = (-1, -1)


@dataclass(frozen=True)
class Stretch:
    """A `jepa_core.protocols.Recording`: windows of a part of a file that begin within some of its frames."""

    file: VideoFile
    step: int
    share: Share = (0.0, 1.0)
    begins: tuple[int, int] | None = None
    """First frame of a window: from, and below; None: anywhere in the part."""

    def starts(self, frames: int) -> range:
        """First frames of the windows that lie in the part."""
        span = (frames - 1) * self.step + 1
        first, end = part(self.file.length(), self.share, span)
        if first + span > end:
            need = f"a window of {frames} frames, {self.step} apart, needs {span}"
            raise CorruptSample(self.file.path, f"{need}; there are {max(0, end - first)}", "too_short")
        last = end - span
        if self.begins is None:
            return range(first, last + 1)
        return range(min(max(first, self.begins[0]), last), max(first, min(last, self.begins[1] - 1)) + 1)

    def window(self, start: int, frames: int) -> Tensor:
        """uint8 [T, 3, h, w] from frame `start` on."""
        return frames_of(self.file, [start + number * self.step for number in range(frames)])


def part(length: int, share: Share, span: int) -> tuple[int, int]:
    """(first, end) frame of a part of a file; later parts begin one window after the part before."""
    first, end = (round(length * edge) for edge in share)
    return (first + span if first else 0), end


def frames_of(file: VideoFile, numbers: Sequence[int]) -> Tensor:
    """uint8 [T, 3, h, w] of these frames."""
    return torch.from_numpy(file.read(numbers)).permute(0, 3, 1, 2)


class WholeFiles(Files):
    """Video files, each a sample; `side`, `copies`, `max_pixels` as of `VideoFile`, frames `step` apart."""

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str] | None,
        note: str,
        *,
        step: int,
        side: int | None,
        copies: Path | None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(root, files, labels, classes, note)
        self.step, self.side, self.copies, self.max_pixels = step, side, copies, max_pixels

    def __getitem__(self, index: int) -> tuple[Stretch, int]:
        file = VideoFile(self.path(index), self.side, self.copies, self.max_pixels)
        return Stretch(file, self.step), int(self.labels[index])


class Clips(BaseSamples):
    """Stretches of video files, `every` frames each, or whole parts of them, at each of some speeds."""

    def __init__(
        self, files: BaseSamples, share: Share, every: int | None, speeds: Sequence[int] = (1,)
    ) -> None:
        self.files, self.share, self.speeds = files, share, speeds
        self.classes, self.note = files.classes, files.note
        cut = [_begins(whole_file(files, index)[0].file, share, every) for index in range(len(files))]
        self.index = np.repeat(np.arange(len(files)), [len(begins) for begins in cut])
        self.begins = np.array([begins for of_file in cut for begins in of_file], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.index) * len(self.speeds)

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Bytes of the files that these samples are cut from."""
        return self.files.sizes([int(self.index[position // len(self.speeds)]) for position in positions])

    def __getitem__(self, index: int) -> tuple[Stretch, int]:
        number, speed = divmod(index, len(self.speeds))
        whole, label = whole_file(self.files, int(self.index[number]))
        begin, end = self.begins[number].tolist()
        begins, step = None if end < 0 else (begin, end), whole.step * self.speeds[speed]
        return replace(whole, step=step, share=self.share, begins=begins), label


def whole_file(files: BaseSamples, index: int) -> tuple[Stretch, int]:
    """A file of `ClipsSource.files`, with its label."""
    pair = files[index]
    assert isinstance(pair, tuple)
    assert isinstance(pair[0], Stretch)
    return pair[0], pair[1]


def _begins(file: VideoFile, share: Share, every: int | None) -> Sequence[tuple[int, int]]:
    """Where the windows of each sample of a file begin; (-1, -1): anywhere. What cannot be read is one
    sample, which is skipped when it is wanted."""
    if every is None:
        return [ANYWHERE]
    try:
        first, end = part(file.length(), share, 0)
    except CorruptSample:
        return [ANYWHERE]
    return [(begin, begin + every) for begin in range(first, max(end, first + 1), every)]
