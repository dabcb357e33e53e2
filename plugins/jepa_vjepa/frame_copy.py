"""The decoded frames of a video file, in one file that is mapped into memory and checked frame by frame.

Each frame carries a checksum of its pixels, so that reading a window costs the window's frames and not the
whole file, and damage is found where it is read.

Axes: F frames of the file, T frames asked for, h, w pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jepa_core.data.cache import DamagedCache, replaced_file
from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import irregularity

VERSION = 2
"""Of the file: part of its name."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class FrameCopy:
    """All frames of a file: an array [F] of `pixels` uint8 [h, w, 3] and their `checksum`, a CRC-32."""

    frames: np.ndarray[Any, Any]

    def read(self, numbers: Sequence[int]) -> Pixels:
        """uint8 [T, h, w, 3]. Raises DamagedCache where a frame is not what was written."""
        frames = self.frames[list(numbers)]
        for number, frame in zip(numbers, frames, strict=True):
            if zlib.crc32(frame["pixels"].tobytes()) != frame["checksum"]:
                raise DamagedCache(f"frame {number} is not what was written")
        pixels: Pixels = np.ascontiguousarray(frames["pixels"])
        return pixels


@lru_cache(maxsize=64)
def open_copy(file: Path) -> FrameCopy:
    """A copy. Some stay mapped: opening one takes as long as reading a window.

    Raises DamagedCache for what `write_copy` did not write, and FileNotFoundError.
    """
    kind = irregularity(file)
    if kind is not None:
        raise DamagedCache(f"it is {kind}, not a regular file")
    try:
        frames = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file fails in any way
        if isinstance(error, OSError) and error.errno:
            raise
        raise DamagedCache(" ".join(str(error).split()) or type(error).__name__) from None
    if (
        not isinstance(frames, np.ndarray)
        or frames.ndim != 1
        or not len(frames)
        or not _is_frame_type(frames.dtype)
    ):
        raise DamagedCache("it holds no frames with checksums")
    return FrameCopy(frames)


def _is_frame_type(dtype: np.dtype[Any]) -> bool:
    pixels = dtype.fields["pixels"][0] if dtype.names == ("pixels", "checksum") and dtype.fields else None
    return pixels is not None and dtype == _frame_type(pixels.shape)


def _frame_type(shape: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype([("pixels", np.uint8, shape), ("checksum", "<u4")])


def write_copy(file: Path, pixels: Pixels) -> None:
    """Writes frames uint8 [F, h, w, 3], whole or not at all. Raises UserError where that is impossible."""
    frames = np.empty(len(pixels), dtype=_frame_type(pixels.shape[1:]))
    frames["pixels"] = pixels
    frames["checksum"] = [zlib.crc32(frame.tobytes()) for frame in pixels]
    try:
        with replaced_file(file) as stream:
            np.save(stream, frames)
    except OSError as error:
        raise UserError(
            f"decoded frames cannot be kept as {file}: {error.strerror or error}; data.decoded_copies=false "
            "does without them"
        ) from None
