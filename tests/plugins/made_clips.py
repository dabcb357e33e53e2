"""Small video files for tests, written with PyAV: what frame it is can be read off each frame."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

STEP = 4
"""Grey levels from one frame of `numbered` to the next."""


def numbered(frames: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """uint8 [F, h, w, 3]: frame i is of the grey 4 i, but for a white square that moves a pixel a frame."""
    grey = (STEP * np.arange(frames)).clip(0, 255)
    film = np.broadcast_to(grey[:, None, None, None], (frames, *size, 3)).astype(np.uint8)
    for i in range(frames):
        film[i, 2:8, i % (size[1] - 6) : i % (size[1] - 6) + 6] = 255
    return film


def numbers_of(frames: Any) -> list[int]:
    """Which frames of `numbered` these are, [T, 3, h, w] or [T, h, w, 3]: by the grey below the square."""
    pixels = np.asarray(frames)
    pixels = pixels.transpose(0, 2, 3, 1) if pixels.shape[1] == 3 else pixels
    return [round(float(np.median(frame[frame.shape[0] // 2 :])) / STEP) for frame in pixels]


def write_video(
    path: Path,
    film: np.ndarray,
    *,
    codec: str = "mpeg4",
    rate: Fraction | int = 25,
    gop: int = 10,
    b_frames: int = 0,
    times: list[int] | None = None,
) -> Path:
    """A video file of uint8 [F, h, w, 3]; `times`: when each frame is shown, in ticks of 1 / rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = film.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.gop_size, stream.max_b_frames = gop, b_frames
        stream.codec_context.thread_count = 1
        for i, pixels in enumerate(film):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), Fraction(1) / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
