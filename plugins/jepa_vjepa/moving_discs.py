"""`moving_discs`: films of discs of which one moves, drawn as they are read, with the exact motion as labels.

    mover   which colour moves            direction   left, right, up, down
    speed   1×, 2×, 4×                    turn        left, straight, right

What is unusual: a film is drawn outwards from its middle frame, so films that differ in nothing but how one
disc moves share that frame. At each place of a task there is one window of every label with the same middle
frame: the labels are balanced and no single frame can tell them, by construction. Discs are alike but for
their colour, and each film has one of every colour, so nothing but places and motion is there to be learned.

Axes: F frames of a film, N discs, h = w = 64 pixels. Places are (x, y) in pixels, y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from jepa_core.data import BaseSamples, SourceSettings
from jepa_core.data.splits import SPLITS, check_split
from jepa_core.errors import unknown
from jepa_core.protocols import FeatureMap, FeatureModel, Role
from jepa_vjepa.labels import check_clip_shape, controls

SIDE, RADIUS = 64, 6.0
COLOURS = {
    "red": (230, 60, 50),
    "green": (60, 200, 90),
    "blue": (70, 110, 240),
    "yellow": (240, 200, 60),
    "violet": (200, 90, 220),
}
GROUND = 40
"""Grey level of the empty plane."""
TURN = 0.3
"""Largest change of the direction from frame to frame, in radians."""
DIRECTIONS = {"left": np.pi, "right": 0.0, "up": -np.pi / 2, "down": np.pi / 2}
SPREAD = np.pi / 6
"""How far the motion of a label may be from the label's own direction, in radians."""

Places = np.ndarray[Any, np.dtype[np.float64]]
Pixels = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Motion:
    """How one disc moves: its number, its direction in the middle frame (radians, 0 is right, clockwise), its
    speed (pixels a frame) and by how much it turns a frame (radians, positive is clockwise)."""

    mover: int
    direction: float
    speed: float
    turn: float

    def way(self, frames: int) -> Places:
        """[F, 2]: a line or an arc from its place in frame F // 2, as if there were no border."""
        time = np.arange(frames) - frames // 2
        chord = time * np.sinc(self.turn * time / (2 * np.pi))
        way = self.speed * chord * np.exp(1j * (self.direction + self.turn * time / 2))
        return np.stack([way.real, way.imag], 1)


@dataclass(frozen=True)
class DiscFilm:
    """A `jepa_core.protocols.Recording`: any number of frames about the middle one, in which discs are at
    `places` [N, 2] and one of them moves."""

    places: Places
    motion: Motion

    def starts(self, frames: int) -> Sequence[int]:
        """Its first frame: it is as long as it is asked to be."""
        return (0,)

    def window(self, start: int, frames: int) -> Tensor:
        """uint8 [F, 3, h, w]: what moves is in front."""
        film = np.full((1, SIDE, SIDE, 3), GROUND, np.float32)
        for number, place in enumerate(self.places):
            if number != self.motion.mover:
                film = put_disc(film, place[None], number)
        film = put_disc(film, self.track(frames), self.motion.mover)
        return torch.from_numpy(film.round().astype(np.uint8)).permute(0, 3, 1, 2)

    def track(self, frames: int) -> Places:
        """[F, 2]: where the disc that moves is in each frame; it bounces off the border."""
        room = SIDE - 2 * RADIUS
        way = self.places[self.motion.mover] + self.motion.way(frames) - RADIUS
        track: Places = RADIUS + room - np.abs(way % (2 * room) - room)
        return track


def put_disc(film: Pixels, places: Places, number: int) -> Pixels:
    """Frames float32 [F, h, w, 3] with a disc in front, its edge smooth, in the colour of its number.

    `places` [F, 2] are its middle's; one frame, or one place, serves for all.
    """
    pixels = np.arange(SIDE, dtype=np.float32) + 0.5
    x, y = (places[:, axis, None, None].astype(np.float32) for axis in (0, 1))
    distance = np.hypot(pixels - x, pixels[:, None] - y)
    cover = np.clip(RADIUS + 0.5 - distance, 0, 1)[..., None]
    colour = np.array(list(COLOURS.values())[number], np.float32)
    return film + cover * (colour - film)


def draw_scene(discs: int, slowest: float, draw: np.random.Generator) -> DiscFilm:
    """Discs that do not touch in the middle frame, and any motion of any of them, up to four times as fast as
    `slowest` pixels a frame."""
    while True:
        places = draw.uniform(RADIUS, SIDE - RADIUS, (discs, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + SIDE * np.eye(discs)
        if gaps.min() > 2 * RADIUS + 2:  # their smooth edges apart too
            break
    speed = slowest * 4 ** draw.uniform()
    motion = Motion(int(draw.integers(discs)), draw.uniform(-np.pi, np.pi), speed, draw.uniform(-TURN, TURN))
    return DiscFilm(places, motion)


class Films(BaseSamples):
    """So many films of a split, each drawn from (data_seed, split, its number); without labels."""

    def __init__(self, config: MovingDiscs.Config, split: str, count: int) -> None:
        self.config, self.split, self.count = config, SPLITS.index(split), count
        self.note = f"drawn films of {config.discs} discs of which one moves; {split}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[DiscFilm, int]:
        return self.film(index)[0], -1

    def film(self, index: int) -> tuple[DiscFilm, np.random.Generator]:
        """A film, and what further choices about it are drawn from."""
        draw = np.random.default_rng((self.config.data_seed, self.split, index))
        return draw_scene(self.config.discs, self.config.speed, draw), draw


class LabelledFilms(BaseSamples):
    """At each place, a film of `films`, one window of every label of a task, of F frames.

    Raises UserError for an unknown task.
    """

    def __init__(self, films: Films, task: str, frames: int) -> None:
        self.films, self.task, self.frames = films, task, frames
        labels = task_labels(films.config)
        if task not in labels:
            raise unknown("task", task, labels)
        self.classes, self.values = list(labels[task]), list(labels[task].values())
        self.note = f"{films.note}; {len(films)} places, a window of each label"

    def __len__(self) -> int:
        return len(self.films) * len(self.values)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place, label = divmod(index, len(self.values))
        film, draw = self.films.film(place)
        motion = set_part(film.motion, self.task, self.values[label], draw)
        return replace(film, motion=motion).window(0, self.frames), label


def task_labels(config: MovingDiscs.Config) -> Mapping[str, Mapping[str, float]]:
    """The labels of each task, each with its value of the `Motion`'s part that the task is named after."""
    return {
        "mover": {colour: number for number, colour in enumerate(list(COLOURS)[: config.discs])},
        "direction": DIRECTIONS,
        "speed": {f"{factor}×": factor * config.speed for factor in (1, 2, 4)},
        "turn": {"left": -TURN, "straight": 0.0, "right": TURN},
    }


def set_part(motion: Motion, part: str, value: float, draw: np.random.Generator) -> Motion:
    """The motion with one part at a label's value; a direction is drawn about it."""
    if part == "mover":
        return replace(motion, mover=int(value))
    if part == "direction":
        return replace(motion, direction=value + draw.uniform(-SPREAD, SPREAD))
    return replace(motion, speed=value) if part == "speed" else replace(motion, turn=value)


class MovingDiscs:
    """Films of discs of which one moves, as many as one likes, with labels that no single frame tells."""

    class Config(SourceSettings):
        """Settings of the films."""

        films: int = Field(20_000, ge=40, le=10_000_000)
        """Films to train on."""
        places: PositiveInt = 200
        """Films that a task of `test` or `val` is made of, with a window of every label each; probes are
        trained on four times as many."""
        discs: int = Field(4, ge=2, le=len(COLOURS))
        """Discs in each, of different colours."""
        speed: float = Field(2.0, gt=0, le=SIDE / 8)
        """Slowest speed in pixels a frame; the fastest is four times that."""
        data_seed: int = Field(0, ge=0)
        """Which films are drawn."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, name: str) -> Films:
        """`train`, `val` or `test`."""
        check_split(name)
        return Films(self.config, name, self.config.films if name == "train" else self.config.places)

    def tasks(self) -> Sequence[str]:
        """What no single frame tells: which disc moves, whereto, how fast, and how it turns."""
        return list(task_labels(self.config))

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> LabelledFilms:
        """Windows of every label about the middle frames of a split's films. Raises UserError for an unknown
        task and for an encoder of images."""
        check_clip_shape(task, view_shape)
        check_split(split)
        count = self.config.places * (4 if split == "train" else 1)
        return LabelledFilms(Films(self.config, split, count), task, view_shape[1])

    def controls(self, model: FeatureModel, role: Role, tokens: bool) -> Sequence[FeatureMap]:
        """Features that see no motion, and features that see nothing but motion (see `labels`)."""
        return controls(model, role, tokens)
