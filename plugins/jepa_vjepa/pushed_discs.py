"""`pushed_discs`: films of discs that are pushed now and then, slow down, and bounce; drawn at first use.

What is unusual: all discs of a colour look alike in every film and the ground is empty, so nothing but places
and motion is there to be learned; and friction tells the arrow of time. A disc that is pushed starts at once
and comes to rest slowly; reversed, it would speed up and stop at once. A single frame shows neither. Films
are video files like any others, so windows, tasks and controls are those of `clips`.

Axes: F frames of a film, N discs, h = w = 64 pixels.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from jepa_core.data import BaseSamples
from jepa_core.data.cache import cache_folder
from jepa_core.data.splits import Share
from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_vjepa.clips import ClipsSource
from jepa_vjepa.decoding import load_av

log = logging.getLogger("jepa.vjepa")

SIDE, RADIUS = 64, 6.0
COLOURS = np.array([(230, 60, 50), (60, 200, 90), (70, 110, 240), (240, 200, 60), (200, 90, 220)])
GROUND = 40
FRICTION = 0.85
"""Share of its speed that a disc keeps from frame to frame."""
PUSHED = 0.08
"""Chance of a push, of each disc in each frame."""
SPEEDS = (2.0, 7.0)
"""Of a push, in pixels a frame."""
BOUNCE = 0.7
"""Share of its speed that a disc keeps at the border."""
VERSION = 1
"""Of the drawing: films of another one lie in another folder."""

Places = np.ndarray[Any, np.dtype[np.float64]]
Frames = np.ndarray[Any, np.dtype[np.uint8]]


def move_discs(frames: int, discs: int, draw: np.random.Generator) -> Places:
    """Places [F, N, 2] (x, y) of the discs' middles, in pixels."""
    low, high = RADIUS, SIDE - RADIUS
    place, speed = draw.uniform(low, high, (discs, 2)), np.zeros((discs, 2))
    places = np.empty((frames, discs, 2))
    for frame in range(frames):
        angle, size = draw.uniform(0, 2 * np.pi, discs), draw.uniform(*SPEEDS, discs)
        push = size[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        speed = np.where(draw.random((discs, 1)) < PUSHED, push, speed * FRICTION)
        place = place + speed
        outside = (place < low) | (place > high)
        place = np.where(place < low, 2 * low - place, np.where(place > high, 2 * high - place, place))
        speed = np.where(outside, -BOUNCE * speed, speed)
        places[frame] = place
    return places


def draw_discs(places: Places) -> Frames:
    """uint8 [F, h, w, 3]: discs with smooth edges at places [F, N, 2], the last one in front."""
    side = np.arange(SIDE, dtype=np.float32) + 0.5
    film = np.full((len(places), SIDE, SIDE, 3), GROUND, np.float32)
    for number in range(places.shape[1]):
        x, y = (places[:, number, axis, None, None].astype(np.float32) for axis in (0, 1))
        distance = np.hypot(side[None, None] - x, side[None, :, None] - y)
        cover = np.clip(RADIUS + 0.5 - distance, 0, 1)[..., None]
        film += cover * (COLOURS[number % len(COLOURS)] - film)
    return film.round().astype(np.uint8)


def encode_film(film: Frames) -> bytes:
    """A lossless video file (FFV1 in Matroska) of frames uint8 [F, h, w, 3], every one a key frame.

    Raises UserError where PyAV is not installed.
    """
    av = load_av()
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = film.shape[1:3]
        stream.pix_fmt, stream.gop_size = "bgr0", 1
        for number, pixels in enumerate(film):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


class PushedDiscs(ClipsSource):
    """Films of pushed discs, whose motion tells the arrow of time; whole films are held out."""

    class Config(ClipsSource.Config):
        """Settings of the films."""

        path: Path | None = None  # type: ignore[assignment]
        """Folder to keep the films in; by default one in `$JEPA_DATA`, else in `~/.cache/jepa`."""
        films: int = Field(120, ge=10, le=10_000)
        """Films in all."""
        film_frames: int = Field(240, ge=16, le=100_000)
        """Frames of each."""
        discs: PositiveInt = 4
        """Discs in each."""
        data_seed: int = Field(0, ge=0)
        """Which films are drawn."""
        test_share: Share = 0.2
        """Share of the films that are held out as `test`."""
        hold_out: Literal["files"] = "files"
        """Whole films are held out."""
        frame_step: PositiveInt = 1
        """Frames of the film from one frame of a window to the next."""
        sample_every: PositiveInt | None = 8
        """A sample for every so many frames of a film."""
        task_every: PositiveInt = 16
        """Frames of a film between two windows of the tasks for probes."""
        decoded_copies: bool = True
        """Keep the frames decoded (350 MB for 120 films): a window is then read in a tenth of the time."""

        def check(self) -> None:
            """Raises UserError for a film shorter than a window."""
            if self.film_frames < 16 * self.frame_step:
                raise UserError(
                    f"setting 'data.film_frames' is {self.film_frames}; expected 16 times data.frame_step, "
                    f"{16 * self.frame_step}, or more"
                )

    config: Config

    def __init__(self, config: Config) -> None:
        config.check()
        numbers = (VERSION, config.data_seed, config.discs, config.film_frames, config.films)
        folder = (config.path or cache_folder()) / "-".join(map(str, ("pushed_discs", *numbers)))
        super().__init__(config.model_copy(update={"path": folder}))

    def own_splits(self) -> Collection[str]:
        """`train`; the others are cut from it."""
        return ("train",)

    def load(self, name: str) -> BaseSamples:
        """Every film, drawn where it is missing. Raises UserError for a folder that cannot be written."""
        folder, config = cache_folder(self.path), self.config
        missing = [n for n in range(config.films) if not (folder / f"film-{n:04d}.mkv").is_file()]
        if missing:
            log.info("drawing %s films of pushed discs in %s", f"{len(missing):,}", folder)
        for number in missing:
            draw = np.random.default_rng((config.data_seed, number))
            film = draw_discs(move_discs(config.film_frames, config.discs, draw))
            atomic_write(folder / f"film-{number:04d}.mkv", encode_film(film))
        return super().load(name)
