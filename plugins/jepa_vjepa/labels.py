"""Labels that one frame cannot give away: is a window played forward or backward, and how fast.

    arrow   forward, reversed            speed   1×, 2×, 4×

What is unusual: all windows of a place have the same middle frame, and each label has exactly one window at
each place. So the labels are balanced and cannot be told from a single frame, by construction; a control in
the probe table confirms it.

Axes: n windows, B samples of a batch, C channels, T frames of a window, h, w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from jepa_core.data import BaseSamples, CorruptSample
from jepa_core.errors import UserError
from jepa_core.evaluate import FeatureMap, model_features
from jepa_core.protocols import FeatureModel, Role
from jepa_vjepa.films import Share, Stretch, frames_of, part, whole_file

TASKS: Mapping[str, Mapping[str, int]] = {
    "arrow": {"forward": 1, "reversed": -1},
    "speed": {"1×": 1, "2×": 2, "4×": 4},
}
"""Pace of each label: frames of the window in the order of the file, in `frame_step`s."""
PIXEL_PLACES = 1024
"""Of all differences between frames together, in the control that has nothing else."""
LAGS, SIDE = (1, 2, 4), 4
"""Distances in frames, and areas a side, in the control that sees how much changes."""


class Windows(BaseSamples):
    """At each place one window of every label, of T frames; places lie `every` frames apart in a part of a
    file. Files that cannot be read are skipped when they are wanted; those too short have no place."""

    def __init__(self, files: BaseSamples, share: Share, task: str, frames: int, every: int) -> None:
        self.files, self.frames = files, frames
        self.classes, self.paces = list(TASKS[task]), list(TASKS[task].values())
        reach = frames // 2 * max(map(abs, self.paces))
        whole = [whole_file(files, index)[0] for index in range(len(files))]
        places = [_places(file, share, frames, reach, every) for file in whole]
        self.index = np.repeat(np.arange(len(files)), [len(middles) for middles in places])
        self.middle = np.array([middle for middles in places for middle in middles], dtype=np.int64)
        short = sum(not len(middles) for middles in places)
        self.note = f"{files.note}; {len(self.index)} places, a window of each label"
        if short:
            self.note += f" ({short} of {len(files)} files are too short)"
        if not len(self.index):
            raise UserError(
                f"no file is long enough for the task {task!r}: {2 * reach + 1} times data.frame_step frames "
                "in a split; lower data.frame_step or the encoder's frames"
            )

    def __len__(self) -> int:
        return len(self.index) * len(self.paces)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place, label = divmod(index, len(self.paces))
        whole, _ = whole_file(self.files, int(self.index[place]))
        steps = np.arange(self.frames) - self.frames // 2
        numbers = self.middle[place] + steps * self.paces[label] * whole.step
        return frames_of(whole.file, numbers.tolist()), label


def _places(whole: Stretch, share: Share, frames: int, reach: int, every: int) -> Sequence[int]:
    """Middle frames of the windows of a file, whose fastest reaches so many steps to both sides."""
    try:
        length = whole.file.length()
    except CorruptSample:
        return [0]
    first, end = part(length, share, (frames - 1) * whole.step + 1)
    return range(first + reach * whole.step, end - reach * whole.step, every)


def check_clip_shape(task: str, view_shape: Sequence[int]) -> None:
    """Raises UserError for views that are no clips (C, T, H, W)."""
    if len(view_shape) != 4:
        raise UserError(f"the task {task!r} needs views (C, T, H, W); the encoder's are {tuple(view_shape)}")


def controls(model: FeatureModel, role: Role, tokens: bool) -> Sequence[FeatureMap]:
    """Controls of the probes: the encoder on one frame, frame differences, and their size."""
    seen = model_features(model, "one frame", role, tokens)
    description = f"the trained {role} encoder, the window's middle frame in place of all"
    alone = replace(seen, description=description, encode=lambda view: seen.encode(one_frame(view)))
    words = "differences of frames that follow each other, averaged down"
    change = FeatureMap("frame differences", words, differences, pool="flatten")
    words = f"log of the mean difference of frames {', '.join(map(str, LAGS))} apart, in {SIDE}×{SIDE} areas"
    return [alone, change, FeatureMap("amount of change", words, amounts)]


def one_frame(view: Tensor) -> Tensor:
    """Views [B, C, T, H, W] with their middle frame in place of all."""
    middle = view[:, :, view.shape[2] // 2]
    return repeat(middle, "b c h w -> b c t h w", t=view.shape[2])


def differences(view: Tensor) -> Tensor:
    """[B, T-1, C·h·w]: how each frame differs from the one before, over areas, 1,024 or fewer in all."""
    change = view.diff(dim=2)
    side = max(1, int(math.sqrt(PIXEL_PLACES / max(1, change.shape[2]))))
    sides = min(side, change.shape[3]), min(side, change.shape[4])
    small = F.adaptive_avg_pool2d(rearrange(change, "b c t h w -> b (c t) h w"), sides)
    return rearrange(small, "b (c t) h w -> b t (c h w)", c=view.shape[1])


def amounts(view: Tensor) -> Tensor:
    """[B, 3·16]: how much changes in each area within each of `LAGS` frames, without direction.

    A lag longer than the window is cut to it.
    """
    areas = []
    for lag in (min(lag, view.shape[2] - 1) for lag in LAGS):
        change = (view[:, :, lag:] - view[:, :, : view.shape[2] - lag]).abs().mean((1, 2))
        areas.append(F.adaptive_avg_pool2d(change[:, None], SIDE).flatten(1))
    return (torch.cat(areas, 1) + 1e-3).log()
