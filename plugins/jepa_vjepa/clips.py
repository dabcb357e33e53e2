"""`clips`: a folder of video files; a sample is a stretch of a file, a view a window of frames in it.

    path/train/CLASS/*.mp4  path/val/CLASS/*.mp4  path/test/CLASS/*.mp4      (val, test: optional)
    path/CLASS/*.mp4                                                         class folders directly
    path/*.mp4                                                               just clips, no labels

A window has as many frames as the encoder's view, `frame_step` frames of the file apart. In training it
begins anywhere in the stretch and is cropped at random, all its frames alike; in evaluation it is the
middle. What cannot be read, or is shorter than a window, is skipped and counted.

Axes: F frames of a file, T frames of a window, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from jepa_core.data import BaseSamples, CorruptSample
from jepa_core.data.cache import cache_folder
from jepa_core.data.folder import FolderSource
from jepa_core.data.samples import Files
from jepa_core.data.splits import check_split
from jepa_core.errors import UserError
from jepa_vjepa.decoding import EXTENSIONS, VideoFile

Share = tuple[float, float]
"""A part of every file, from 0 to 1."""
ANYWHERE = (-1, -1)


class ClipsSource(FolderSource):
    """Video files in folders, one folder a class; or just clips. Read with PyAV."""

    extensions = EXTENSIONS
    what = "video files"

    class Config(FolderSource.Config):
        """Settings of a folder of clips."""

        path: Path
        """Folder that holds train/ (and val/, test/), or class folders, or just clips."""
        frame_step: PositiveInt = 4
        """Frames of the file from one frame of a window to the next; V-JEPA's is 4."""
        sample_every: PositiveInt | None = None
        """A sample for every so many frames of a file, so that long files are seen more often: windows of
        the sample begin within them. By default a file is one sample."""
        side: PositiveInt | None = None
        """Shorter side in pixels that frames are scaled down to as they are decoded; by default they stay."""
        decoded_copies: bool = False
        """Keep each file's frames decoded in the folder for data (`$JEPA_DATA`, else `~/.cache/jepa`), about
        side · side · 4 bytes a frame: for small collections, whose training would wait for the decoder."""
        task_every: PositiveInt = 8
        """Frames of a file between two windows of the tasks for probes."""
        hold_out: Literal["files", "time"] = "files"
        """What is held out for val and test where they have no folder: whole files, or the end of every file
        (`test` the last part, `val` the one before it, each after a gap of one window)."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def split(self, name: str) -> Clips:
        """`train`, `val` or `test`; counts frames where that is needed to cut files into samples."""
        files, share = self.files(name)
        return Clips(files, share, self.config.sample_every)

    def files(self, name: str) -> tuple[BaseSamples, Share]:
        """The files of a split, and which part of every one of them is the split's."""
        check_split(name)
        if self.config.hold_out == "files":
            return super().split(name), (0.0, 1.0)
        shares = time_shares(self.config.val_share, self.config.test_share)
        if shares[name][0] == shares[name][1]:
            raise UserError(f"data.{name}_share is 0, so no {name} is held out")
        return self.load("train"), shares[name]

    def opened(
        self, root: Path, files: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None
    ) -> WholeFiles:
        """The files below `root`, each a sample."""
        return WholeFiles(str(root), files, labels, classes, f"clips in {root}", self.config)


def time_shares(val: float, test: float) -> Mapping[str, Share]:
    """The part of every file that each split has: train first, then val, then test."""
    return {"train": (0.0, 1 - val - test), "val": (1 - val - test, 1 - test), "test": (1 - test, 1.0)}


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
    """First frame, and the one after the last, of a part of a file; one window after the part before it."""
    first, end = (round(length * edge) for edge in share)
    return (first + span if first else 0), end


def frames_of(file: VideoFile, numbers: Sequence[int]) -> Tensor:
    """uint8 [T, 3, h, w] of these frames."""
    return torch.from_numpy(file.read(numbers)).permute(0, 3, 1, 2)


class WholeFiles(Files):
    """Video files, each a sample."""

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str] | None,
        note: str,
        config: ClipsSource.Config,
    ) -> None:
        super().__init__(root, files, labels, classes, note)
        self.config = config
        self.copies = cache_folder() / "clips" if config.decoded_copies else None

    def __getitem__(self, index: int) -> tuple[Stretch, int]:
        file = VideoFile(self.path(index), self.config.side, self.copies)
        return Stretch(file, self.config.frame_step), int(self.labels[index])


class Clips(BaseSamples):
    """Stretches of video files, `sample_every` frames each, or whole parts of them."""

    def __init__(self, files: BaseSamples, share: Share, every: int | None) -> None:
        self.files, self.share = files, share
        self.classes, self.note = files.classes, files.note
        cut = [_begins(_whole(files, index)[0].file, share, every) for index in range(len(files))]
        self.index = np.repeat(np.arange(len(files)), [len(begins) for begins in cut])
        self.begins = np.array([begins for of_file in cut for begins in of_file], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[Stretch, int]:
        whole, label = _whole(self.files, int(self.index[index]))
        begin, end = self.begins[index].tolist()
        return replace(whole, share=self.share, begins=None if end < 0 else (begin, end)), label


def _whole(files: BaseSamples, index: int) -> tuple[Stretch, int]:
    whole, label = files[index]
    assert isinstance(whole, Stretch)
    return whole, label


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
