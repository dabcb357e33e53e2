"""`prompted_films`: a few things lie still, then one of them moves; a prompt says which one, and which way.

    frames   `context` still ones, then `future` ones in which one thing moves, and bounces off the border
    prompt   its sentence as text (`views.caption`) or spoken (`views.speech`), and `condition.direction`

What is unusual: nothing in the frames before tells what will move, so that a model without the prompt can do
no better than the mean of all futures; and text and voice say the same of the same thing, so that either may
be the prompt. The direction is a value of its own, as the voices only name things: both kinds of prompt have
it. A sample's `siblings` are the same beginning under every other prompt.

Axes: n films, T frames, K prompts of one beginning, H = W = 64 pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Generator, Tensor
from torch.nn import functional as F

from jepa_core import Field, Sample, UserError
from jepa_core.data import BaseSamples, CorruptSample, SourceSettings
from jepa_core.data.splits import SPLITS, check_split
from jepa_core.types.sample import Fields
from jepa_stacked.stamps import RATE, Stamps, read_stamps

SIDE = 64
DIRECTIONS = ("left", "right", "up", "down")
STEPS = torch.tensor([(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])
"""(x, y) of each direction."""
GROUND = 96
"""Grey level of the empty plane."""


@dataclass(frozen=True)
class Scene:
    """Things on a plane: their rows among the stamps int64 [m], their first places float32 [m, 2] (x, y)."""

    things: Tensor
    places: Tensor


@runtime_checkable
class TellsFutures(Protocol):
    """What `Samples` add of which a beginning has several futures, each told by a prompt of its own."""

    unseen: Tensor
    """bool [n]: whether training has not seen what moves."""

    def siblings(self, index: int, future: int) -> tuple[list[Sample], Tensor]:
        """The sample with `future` frames after the still ones, first, and those that its beginning might
        have become; the places of what moves, float32 [K, T, 2]."""
        ...


class Film:
    """A `Recording` of frames uint8 [T, 3, 64, 64] that is seen from its beginning."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames

    def starts(self, frames: int) -> Sequence[int]:
        """Its first frame. Raises CorruptSample for a view that is longer than the film."""
        if frames > len(self.frames):
            reason = f"it has {len(self.frames)} frames (data.context, data.future); a view has {frames}"
            raise CorruptSample("a film", reason, "short_film")
        return (0,)

    def window(self, start: int, frames: int) -> Tensor:
        """So many frames."""
        return self.frames[start : start + frames]


class PromptedFilms(BaseSamples):
    """Films of a split, drawn when they are read; `rows` are the stamps of it, seen ones and others."""

    def __init__(self, config: PromptedFilmsSource.Config, stamps: Stamps, split: str) -> None:
        self.config, self.stamps, self.split = config, stamps, split
        parts = split_sentences(stamps.sentences[: config.things], config.split_seed)
        seen, new = parts["train"], parts[split]
        count = config.films if split == "train" else max(2, config.films // 10)
        self.unseen = torch.zeros(count, dtype=torch.bool)
        if split != "train":
            self.unseen[1::2] = True
        self.rows = (torch.tensor(seen), torch.tensor(new))
        size = config.size
        self.pictures = F.interpolate(stamps.pictures.float(), (size, size), mode="area") / 255
        self.note = (
            f"prompted films of {len(seen)} things, and of {len(new)} that training has not, in "
            f"{config.language!r}; {split}"
        )

    def __len__(self) -> int:
        return len(self.unseen)

    def scene(self, index: int) -> tuple[Scene, int, int]:
        """The things of a film, which of them moves, and the number of its direction."""
        draw = Generator().manual_seed(
            (self.config.data_seed * len(SPLITS) + SPLITS.index(self.split)) * 10_000_000 + index
        )
        low, high = self.config.crowd
        count = int(torch.randint(low, high + 1, (), generator=draw))
        rows = self.rows[int(self.unseen[index])]
        things = rows[self._different(rows, count, draw)]
        room = SIDE - self.config.size
        while True:  # places at which no thing covers another
            places = (torch.rand(count, 2, generator=draw) * room).round()
            gaps = (places[:, None] - places[None]).abs().amax(2) + SIDE * torch.eye(count)
            if gaps.min() >= self.config.size:
                break
        mover, direction = (int(torch.randint(k, (), generator=draw)) for k in (count, len(DIRECTIONS)))
        return Scene(things, places), mover, direction

    def _different(self, rows: Tensor, count: int, draw: Generator) -> list[int]:
        """Positions of so many rows whose sentences differ."""
        chosen: dict[str, int] = {}
        for position in torch.randperm(len(rows), generator=draw).tolist():
            chosen.setdefault(self.stamps.sentences[int(rows[position])], position)
            if len(chosen) == count:
                break
        return list(chosen.values())

    def track(self, scene: Scene, mover: int, direction: int, future: int) -> Tensor:
        """float32 [T, 2]: where the moving thing is in each frame, its upper left corner."""
        room = SIDE - self.config.size
        still = self.config.context
        times = (torch.arange(still + future) - still + 1).clamp(min=0)
        way = scene.places[mover] + times[:, None] * self.config.speed * STEPS[direction]
        return room - ((way % (2 * room)) - room).abs()

    def draw_film(self, scene: Scene, mover: int, track: Tensor) -> Tensor:
        """Frames uint8 [T, 3, 64, 64]; what moves is in front."""
        plane = torch.full((1, 3, SIDE, SIDE), GROUND / 255)
        for number, thing in enumerate(scene.things.tolist()):
            if number != mover:
                plane = self._put(plane, thing, scene.places[number : number + 1])
        film = self._put(plane.expand(len(track), -1, -1, -1), int(scene.things[mover]), track)
        return (film * 255).round().byte()

    def _put(self, frames: Tensor, thing: int, places: Tensor) -> Tensor:
        """A copy of frames [T, 3, 64, 64] with a thing in front, at places [T, 2]."""
        picture, side = self.pictures[thing], torch.arange(self.config.size)
        x, y = (places.round().long()[:, axis, None] + side for axis in (0, 1))
        frame, rows, columns = torch.arange(len(frames))[:, None, None], y[:, :, None], x[:, None, :]
        under = frames[frame, :, rows, columns]
        covered = under.lerp(picture[:3].movedim(0, -1), picture[3, :, :, None])
        frames = frames.clone()
        frames[frame, :, rows, columns] = covered
        return frames

    def make(self, scene: Scene, mover: int, direction: int, future: int, key: str) -> tuple[Sample, Tensor]:
        """A film with its prompt, and the track of what moves."""
        track, thing = self.track(scene, mover, direction, future), int(scene.things[mover])
        way = F.one_hot(torch.tensor(direction), len(DIRECTIONS)).float()
        views = {
            "film": Film(self.draw_film(scene, mover, track)),
            "caption": self.stamps.sentences[thing],
            "speech": self.stamps.sounds[thing],
        }
        return Sample(views, {"direction": way}, targets={"place": track[-1]}, key=key), track

    def __getitem__(self, index: int) -> Sample:
        sample, _ = self.make(*self.scene(index), self.config.future, f"{self.split}-{index}")
        return sample

    def siblings(self, index: int, future: int) -> tuple[list[Sample], Tensor]:
        """The film and those of its beginning under every other prompt; tracks [K, T, 2]."""
        scene, mover, direction = self.scene(index)
        prompts = [(m, d) for m in range(len(scene.things)) for d in range(len(DIRECTIONS))]
        prompts.sort(key=lambda prompt: prompt != (mover, direction))
        made = [self.make(scene, m, d, future, f"{self.split}-{index}") for m, d in prompts]
        samples, tracks = zip(*made, strict=True)
        return list(samples), torch.stack(tracks)


def split_sentences(sentences: Sequence[str], seed: int) -> dict[str, list[int]]:
    """Rows by split: a tenth of the sentences each is only in `val` and in `test`, by a hash of each."""
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, sentence in enumerate(sentences):
        tenth = hashlib.blake2b(f"{seed}/{sentence}".encode(), digest_size=8).digest()[0] % 10
        parts[{0: "val", 1: "test"}.get(tenth, "train")].append(row)
    return parts


class PromptedFilmsSource:
    """Films of Tux Paint's stamps; half of the films of `val` and `test` are of things held out."""

    class Config(SourceSettings):
        """Settings of prompted films."""

        language: Literal["be", "bg", "ca", "da", "el", "en", "es", "fr", "lt", "nl", "ro", "ru"] = "fr"
        """Of the sentences and the voices. French has most things (767), English 65."""
        things: PositiveInt | None = None
        """Only so many of them, for trials."""
        films: int = Setting(6_000, ge=40, le=10_000_000)
        """Films to train on; the other splits have a tenth."""
        context: PositiveInt = 4
        """Still frames at the beginning."""
        future: int = Setting(16, ge=1, le=1000)
        """Frames after them."""
        crowd: tuple[PositiveInt, PositiveInt] = (2, 3)
        """Things in a film: fewest, most."""
        size: int = Setting(18, ge=8, le=24)
        """Side of a thing in pixels."""
        speed: float = Setting(2.5, gt=0, le=SIDE)
        """Pixels that the moving thing goes in a frame."""
        data_seed: int = Setting(0, ge=0)
        """Which films are drawn."""
        split_seed: int = 0
        """Which things are held out."""

        def check(self) -> None:
            """Raises UserError for a crowd that is none, or does not fit the plane."""
            low, high = self.crowd
            if not low <= high <= 4:
                raise UserError(
                    f"setting 'data.crowd' is [{low}, {high}]; expected the fewer first, 4 at most"
                )

    def __init__(self, config: Config) -> None:
        config.check()
        self.config = config

    def fields(self) -> Fields:
        """The film, the sentence and the voice of what moves, its direction, its place in the last frame."""
        return {
            "views.film": Field("clip"),
            "views.caption": Field("text"),
            "views.speech": Field("audio", (None,), rate=RATE),
            "condition.direction": Field("vector", (len(DIRECTIONS),), names=DIRECTIONS),
            "targets.place": Field("vector", (2,), units="pixels", names=("x", "y")),
        }

    def split(self, name: str) -> PromptedFilms:
        """`train`, `val` or `test`. Raises UserError as `read_stamps`, and for too few things to hold any
        out."""
        check_split(name)
        films = PromptedFilms(self.config, read_stamps(self.config.language), name)
        fewest = min(len({films.stamps.sentences[row] for row in rows.tolist()}) for rows in films.rows)
        if fewest < self.config.crowd[1]:
            raise UserError(
                f"{self.config.language!r} leaves {fewest} things in a part of {name}; a film has up to "
                f"{self.config.crowd[1]} (data.crowd, data.things)"
            )
        return films
