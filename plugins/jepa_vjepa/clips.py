"""`clips`: a folder of video files; a sample is a stretch of a file, a view a window of frames in it.

    path/train/CLASS/*.mp4  path/val/CLASS/*.mp4  path/test/CLASS/*.mp4      (val, test: optional)
    path/CLASS/*.mp4                                                         class folders directly
    path/*.mp4                                                               just clips, no labels

A window has as many frames as the encoder's view, `frame_step` frames of the file apart. In training it
begins anywhere in the stretch and is cropped at random, all its frames alike; in evaluation it is the
middle. What cannot be read, or is shorter than a window, is skipped and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from jepa_core.data import BaseSamples
from jepa_core.data.cache import cache_folder
from jepa_core.data.sources.folder import FolderSource
from jepa_core.data.splits import check_split
from jepa_core.errors import UserError
from jepa_core.protocols import FeatureMap, FeatureModel, Role
from jepa_vjepa.decoding import EXTENSIONS
from jepa_vjepa.films import Clips, Share, WholeFiles
from jepa_vjepa.labels import TASKS, Windows, check_clip_shape, controls

CLASS = "class"
"""The task whose labels are the folders."""


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
        speeds: tuple[PositiveInt, ...] = Field((1,), min_length=1)
        """Multiples of `frame_step` to train at: every sample is there once at each."""
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
        return Clips(files, share, self.config.sample_every, self.config.speeds if name == "train" else (1,))

    def files(self, name: str) -> tuple[BaseSamples, Share]:
        """The files of a split, and which part of every one of them is the split's."""
        check_split(name)
        if self.config.hold_out == "files":
            return super().split(name), (0.0, 1.0)
        shares = time_shares(self.config.val_share, self.config.test_share)
        if shares[name][0] == shares[name][1]:
            raise UserError(f"data.{name}_share is 0, so no {name} is held out")
        return self.load("train"), shares[name]

    def tasks(self) -> Sequence[str]:
        """`class` where there are class folders, and the tasks that need no labels (see `labels`)."""
        return [CLASS, *TASKS] if self.files("train")[0].classes else list(TASKS)

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> BaseSamples:
        """Windows at fixed places of a split's files, labelled."""
        files, share = self.files(split)
        if task == CLASS:
            return Clips(files, share, None)
        check_clip_shape(task, view_shape)
        return Windows(files, share, task, view_shape[1], self.config.task_every)

    def controls(self, model: FeatureModel, role: Role, tokens: bool) -> Sequence[FeatureMap]:
        """Features that see no motion, and features that see nothing but motion (see `labels`)."""
        return controls(model, role, tokens)

    def make_samples(
        self, root: Path, files: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None
    ) -> WholeFiles:
        """The files below `root`, each a sample."""
        config = self.config
        return WholeFiles(
            str(root),
            files,
            labels,
            classes,
            f"clips in {root}",
            step=config.frame_step,
            side=config.side,
            copies=cache_folder() / "clips" if config.decoded_copies else None,
            max_pixels=config.max_pixels,
        )


def time_shares(val: float, test: float) -> Mapping[str, Share]:
    """The part of every file that each split has: train first, then val, then test."""
    return {"train": (0.0, 1 - val - test), "val": (1 - val - test, 1 - test), "test": (1 - test, 1.0)}
