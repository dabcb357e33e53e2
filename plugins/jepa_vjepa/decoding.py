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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jepa_core.data import CorruptSample
from jepa_core.data.cache import DamagedCache
from jepa_core.data.images import MAX_PIXELS, unreadable_sample
from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import irregularity
from jepa_vjepa.frame_copy import VERSION, FrameCopy, open_copy, write_copy

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

T = TypeVar("T")

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Times = np.ndarray[Any, np.dtype[np.int64]]

EXTENSIONS = (".avi", ".mkv", ".mov", ".mp4", ".webm")
OPTIONS = {
    "format_whitelist": "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2",
    "protocol_whitelist": "file",
}
"""For libav: which formats are opened, and that nothing is fetched."""

log = logging.getLogger("jepa.vjepa")


@dataclass(frozen=True)
class VideoFile:
    """A file whose frames can be read in any order; `side` and `copies` as in the settings of `clips`."""

    path: str
    side: int | None = None
    copies: Path | None = None
    max_pixels: int = MAX_PIXELS
    """Of a frame: larger ones make the file corrupt, and are not decoded."""

    def length(self) -> int:
        """Frames F. Raises CorruptSample for what is no video, and for one without frames."""
        if self.copies:
            return self._with_copy(lambda copy: len(copy.frames))
        return len(stamps(self.path).times)

    def read(self, numbers: Sequence[int]) -> Pixels:
        """uint8 [T, h, w, 3]: these of the frames 0 … F-1. Raises CorruptSample."""
        if self.copies:
            return self._with_copy(lambda copy: copy.read(numbers))
        return read_frames(self.path, numbers, self.side, self.max_pixels)

    def _with_copy(self, use: Callable[[FrameCopy], T]) -> T:
        """What `use` makes of the decoded copy; it is made where it is missing, and again where damaged."""
        assert self.copies is not None
        file = self.copies / f"{self._identity()}.npy"
        try:
            return use(open_copy(file))
        except FileNotFoundError:
            pass
        except DamagedCache as error:
            log.warning("%s is damaged and is decoded again: %s", file, error)
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
        open_copy.cache_clear()
        write_copy(file, decode_all(self.path, self.side, self.max_pixels))
        log.info("decoded %s, kept as %s", self.path, file)
        try:
            return use(open_copy(file))
        except (DamagedCache, OSError) as error:
            raise UserError(f"{file} is damaged as soon as it is written: {error}") from None

    def _identity(self) -> str:
        """Changes with the file and the size of its copy."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise unreadable_sample(self.path, error) from None
        text = f"{os.path.abspath(self.path)}/{status.st_size}/{status.st_mtime_ns}/{self.side}/{VERSION}"
        name = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        return f"{Path(self.path).stem[:100]}-{name}"


@dataclass(frozen=True)
class Stamps:
    """Time stamps of a file's frames, read from its packets without decoding."""

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
    with open_video(path) as (container, stream):
        packets = [
            (packet.pts, packet.dts, packet.is_keyframe) for packet in container.demux(stream) if packet.size
        ]
        reordered = bool(stream.codec_context.has_b_frames)
    stamped = [(dts if pts is None else pts, key) for pts, dts, key in packets]
    shown = [(stamp, key) for stamp, key in stamped if stamp is not None]
    if not shown:
        raise CorruptSample(path, "a video without frames", "truncated")
    leads = {pts - dts if pts is not None and dts is not None else None for pts, dts, _ in packets}
    times = np.unique(np.array([stamp for stamp, _ in shown], dtype=np.int64))
    keys = np.unique(np.array([stamp for stamp, key in shown if key] or times[:1], dtype=np.int64))
    return Stamps(times, keys, reordered and len(leads) == 1)


def read_frames(path: str, numbers: Sequence[int], side: int | None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """uint8 [T, h, w, 3] of the frames with these numbers, 0 … F-1, in this order.

    Raises CorruptSample where one of them cannot be decoded, or has more than `max_pixels` pixels.
    """
    chosen, last = set(numbers), max(numbers)
    decoded: dict[int, Pixels] = {}
    for number, frame in _from(path, min(numbers), max_pixels):
        if number in chosen:
            decoded[number] = _pixels(frame, side, path)
        if number >= last:
            break
    missing = sorted(chosen - decoded.keys())
    if missing:
        total = len(stamps(path).times)
        raise CorruptSample(path, f"frame {missing[0]} of {total} cannot be decoded", "truncated")
    return _stack([decoded[number] for number in numbers], path)


def _from(path: str, first: int, max_pixels: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their numbers, from the last keyframe before `first` on."""
    known = stamps(path)
    key = int(known.keys[max(0, np.searchsorted(known.keys, known.times[first], "right") - 1)])
    begin = int(np.searchsorted(known.times, key))
    with open_video(path, max_pixels) as (container, stream):
        if begin > 0:
            container.seek(key, stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            stamp = frame.pts if frame.pts is not None else frame.dts
            if known.counted or stamp is None:
                yield begin + count, frame
            else:
                yield int(np.searchsorted(known.times, stamp)), frame


def decode_all(path: str, side: int | None, max_pixels: int) -> Pixels:
    """uint8 [F, h, w, 3]: every frame of a file. Raises CorruptSample."""
    with open_video(path, max_pixels) as (container, stream):
        frames = [_pixels(frame, side, path) for frame in container.decode(stream)]
    if not frames:
        raise CorruptSample(path, "a video without frames", "truncated")
    return _stack(frames, path)


@contextmanager
def open_video(path: str, max_pixels: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its first video stream. Whatever libav cannot make of it is a CorruptSample.

    Only regular files of the formats that `EXTENSIONS` stand for are opened: libav would take the name for an
    address, wait for a pipe, and fetch what a playlist names.
    """
    av = load_av()
    try:
        kind = irregularity(path)
        if kind is not None:
            raise CorruptSample(path, f"it is {kind}, not a regular file", "unreadable")
        if os.path.getsize(path) == 0:
            raise CorruptSample(path, "the file is empty", "empty")
        with av.open("file:" + os.path.abspath(path), options=OPTIONS) as container:
            if not container.streams.video:
                raise CorruptSample(path, "it holds no video", "not_a_video")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            width, height = stream.codec_context.width, stream.codec_context.height
            if max_pixels is not None and width * height > max_pixels:
                reason = f"its frames have {width * height:,} pixels; data.max_pixels allows {max_pixels:,}"
                raise CorruptSample(path, reason, "too_large")
            yield container, stream
    except UserError:
        raise
    except av.InvalidDataError:
        raise CorruptSample(path, "libav cannot read it", "damaged") from None
    except (av.FFmpegError, OSError) as error:
        raise unreadable_sample(path, error) from None


def load_av() -> Any:
    """The package `av`. Raises UserError where it is not installed."""
    try:
        import av
    except ModuleNotFoundError:
        raise UserError("reading video needs PyAV: pip install 'jepa-core[video]'") from None
    return av


def _stack(frames: Sequence[Pixels], path: str) -> Pixels:
    if len({frame.shape for frame in frames}) > 1:
        raise CorruptSample(path, "its frames have several sizes", "damaged")
    return np.stack(frames)


def _pixels(frame: VideoFrame, side: int | None, path: str) -> Pixels:
    """uint8 [h, w, 3], upright, the shorter side at most `side`. Raises CorruptSample."""
    try:
        share = min(1.0, side / min(frame.width, frame.height)) if side else 1.0
        width, height = (max(1, round(length * share)) for length in (frame.width, frame.height))
        pixels = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA")
    except (ArithmeticError, ValueError, OSError) as error:  # no size, or pixels that cannot be converted
        raise CorruptSample(path, " ".join(str(error).split()), "damaged") from None
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
