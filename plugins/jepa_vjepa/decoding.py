"""Frames of a video file by their numbers, decoded with PyAV from the nearest keyframe on, or from a copy.

What is unusual: frames are numbered by the packets' time stamps, which are read without decoding anything
(2 to 20 ms a file), so a number means the same frame wherever reading starts, in files of odd or varying
frame rate as well. Decoding uses one thread: the loader's workers share the cores between them.

Axes: F frames of the file, T frames asked for, h, w pixels.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jepa_core.data import CorruptSample
from jepa_core.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Times = np.ndarray[Any, np.dtype[np.int64]]

EXTENSIONS = (".avi", ".mkv", ".mov", ".mp4", ".webm")

log = logging.getLogger("jepa.vjepa")


@dataclass(frozen=True)
class VideoFile:
    """A file whose frames can be read in any order; `side` and `copies` as in the settings of `clips`."""

    path: str
    side: int | None = None
    copies: Path | None = None

    def length(self) -> int:
        """Frames F. Raises CorruptSample for what is no video, and for one without frames."""
        return len(self._copy() if self.copies else stamps(self.path).times)

    def read(self, numbers: Sequence[int]) -> Pixels:
        """uint8 [T, h, w, 3]: these of the frames 0 … F-1. Raises CorruptSample."""
        return self._copy()[list(numbers)] if self.copies else read_frames(self.path, numbers, self.side)

    def _copy(self) -> Pixels:
        """All frames, mapped from the decoded copy, which is made where it is missing."""
        assert self.copies is not None
        file = self.copies / f"{self._fingerprint()}.npy"
        if not file.is_file():
            _write_copy(file, self.path, self.side)
        return _mapped(file)

    def _fingerprint(self) -> str:
        """Changes with the file and the size of its copy."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise CorruptSample(self.path, error.strerror or "cannot be read", "missing") from None
        text = f"{os.path.abspath(self.path)}/{status.st_size}/{status.st_mtime_ns}/{self.side}"
        name = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        return f"{Path(self.path).stem}-{name}"


@lru_cache(maxsize=64)
def _mapped(file: Path) -> Pixels:
    """A decoded copy. Some stay mapped: opening one takes as long as reading a window."""
    frames: Pixels = np.load(file, mmap_mode="r")
    return frames


@dataclass(frozen=True)
class Stamps:
    """What the packets of a file tell without being decoded."""

    times: Times
    """When each frame is shown, int64 [F], ascending."""
    keys: Times
    """When those are shown at which decoding may begin, ascending."""
    counted: bool
    """Whether the container knows the order of decoding only (B-frames in AVI), so that a frame's number is
    found by counting from a keyframe on."""


@lru_cache(maxsize=4096)
def stamps(path: str) -> Stamps:
    """Raises CorruptSample for what is no video, and for one without frames."""
    with opened(path) as (container, stream):
        packets = [
            (packet.pts, packet.dts, packet.is_keyframe) for packet in container.demux(stream) if packet.size
        ]
        reordered = bool(stream.codec_context.has_b_frames)
    shown = [(dts if pts is None else pts, key) for pts, dts, key in packets]
    shown = [(stamp, key) for stamp, key in shown if stamp is not None]
    if not shown:
        raise CorruptSample(path, "a video without frames", "truncated")
    leads = {pts - dts if pts is not None and dts is not None else None for pts, dts, _ in packets}
    times = np.unique(np.array([stamp for stamp, _ in shown], dtype=np.int64))
    keys = np.unique(np.array([stamp for stamp, key in shown if key] or times[:1], dtype=np.int64))
    return Stamps(times, keys, reordered and len(leads) == 1)


def read_frames(path: str, numbers: Sequence[int], side: int | None) -> Pixels:
    """uint8 [T, h, w, 3] of the frames with these numbers, 0 … F-1, in this order.

    Raises CorruptSample where one of them cannot be decoded.
    """
    wanted, last = set(numbers), max(numbers)
    found: dict[int, Pixels] = {}
    for number, frame in _from(path, min(numbers)):
        if number in wanted:
            found[number] = _pixels(frame, side)
        if number >= last:
            break
    missing = sorted(wanted - found.keys())
    if missing:
        total = len(stamps(path).times)
        raise CorruptSample(path, f"frame {missing[0]} of {total} cannot be decoded", "truncated")
    return np.stack([found[number] for number in numbers])


def _from(path: str, first: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their numbers, from the last keyframe before `first` on."""
    known = stamps(path)
    key = int(known.keys[max(0, np.searchsorted(known.keys, known.times[first], "right") - 1)])
    begin = int(np.searchsorted(known.times, key))
    with opened(path) as (container, stream):
        if begin > 0:
            container.seek(key, stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            stamp = frame.pts if frame.pts is not None else frame.dts
            if known.counted or stamp is None:
                yield begin + count, frame
            else:
                yield int(np.searchsorted(known.times, stamp)), frame


def _write_copy(file: Path, path: str, side: int | None) -> None:
    """Decodes a whole file to uint8 [F, h, w, 3], which appears whole or not at all."""
    with opened(path) as (container, stream):
        frames = [_pixels(frame, side) for frame in container.decode(stream)]
    if not frames:
        raise CorruptSample(path, "a video without frames", "truncated")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream_out:
            np.save(stream_out, np.stack(frames))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    log.info("decoded %s: %d frames, kept as %s", path, len(frames), file)


@contextmanager
def opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its first video stream. Whatever libav cannot make of it is a CorruptSample."""
    av = _av()
    try:
        if os.path.getsize(path) == 0:
            raise CorruptSample(path, "the file is empty", "empty")
        with av.open(path) as container:
            if not container.streams.video:
                raise CorruptSample(path, "it holds no video", "not_a_video")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except FileNotFoundError as error:
        raise CorruptSample(path, error.strerror or "cannot be read", "missing") from None
    except av.InvalidDataError:
        raise CorruptSample(path, "libav cannot read it", "damaged") from None
    except (av.FFmpegError, OSError) as error:
        raise CorruptSample(path, error.strerror or "cannot be read", "unreadable") from None


def _av() -> Any:
    """The package `av`. Raises UserError where it is not installed."""
    try:
        import av
    except ModuleNotFoundError:
        raise UserError("reading video needs PyAV: pip install 'jepa-core[video]'") from None
    return av


def _pixels(frame: VideoFrame, side: int | None) -> Pixels:
    """uint8 [h, w, 3], upright, the shorter side at most `side`."""
    share = min(1.0, side / min(frame.width, frame.height)) if side else 1.0
    width, height = (max(1, round(length * share)) for length in (frame.width, frame.height))
    pixels = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
