"""What a world is, and the source of episodes that are played in one.

A world is scripted: its state is a tensor that says everything, so that many episodes are played at once and
one can be begun anywhere. `two_rooms` is such a world; docs/worlds.md writes another in 30 lines. Sources of
other episodes (`episodes`, `pusht`) share `EpisodeSamples` and have no world to plan in.

Axes: B episodes, L steps of an episode, T frames of a window, S numbers of a state, A numbers of an action.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field as Setting
from torch import Generator, Tensor

from jepa_core import Field, Sample, UserError
from jepa_core.data import BaseSamples, CorruptSample, SourceSettings
from jepa_core.data.splits import check_split
from jepa_core.types.sample import Fields

SEEDS = {"train": 0, "val": 1, "test": 2}


@runtime_checkable
class World(Protocol):
    """An environment of states float32 [B, S] that say everything, its layout too."""

    state_names: tuple[str, ...]
    """What the S numbers of a state are."""
    action_names: tuple[str, ...]
    """What the A numbers of an action are; all 0 is to do nothing."""
    reach: float
    """The largest norm of an action; `step` shortens longer ones."""
    budget: int
    """Steps in which a goal is to be reached."""
    tolerance: float
    """Distance from the goal at which it is reached."""

    def draw_states(self, count: int, split: str, generator: Generator) -> Tensor:
        """Random states [B, S] in the layouts of a split, `train`, `val` or `test`."""
        ...

    def draw_goals(self, states: Tensor, generator: Generator) -> Tensor:
        """For each state one of the same layout [B, S] that is to be reached from it."""
        ...

    def draw_actions(
        self, states: Tensor, memory: Tensor | None, generator: Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The next actions [B, A] of the behaviour that training data are made by, and its memory.

        `memory` is what it returned a step before, None in an episode's first step.
        """
        ...

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The states [B, S] after actions [B, A]."""
        ...

    def render(self, states: Tensor) -> Tensor:
        """Frames uint8 [B, 3, H, W]."""
        ...

    def distance(self, states: Tensor, goals: Tensor) -> Tensor:
        """How far each state is from its goal, [B]."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """What a `World` adds whose states lie within bounds."""

    bounds: Mapping[str, tuple[float, float]]
    """The least and the greatest value of some numbers of a state, by their names."""


@runtime_checkable
class Routed(Protocol):
    """What a `World` adds whose ways are not straight."""

    def way_length(self, states: Tensor, goals: Tensor) -> Tensor:
        """The length of the shortest way from each state to its goal, [B]."""
        ...


def way_length(world: World, states: Tensor, goals: Tensor) -> Tensor:
    """The length [B] of the shortest way where the world says it, else the distance."""
    return world.way_length(states, goals) if isinstance(world, Routed) else world.distance(states, goals)


def check_goals(world: World, goals: Tensor) -> None:
    """Raises UserError for a goal [B, S] that is no state of the world: not finite, or out of its bounds."""
    bounds = world.bounds if isinstance(world, Bounded) else {}
    for name, (low, high) in {**dict.fromkeys(world.state_names, (-math.inf, math.inf)), **bounds}.items():
        values = goals[:, world.state_names.index(name)]
        outside = ~(values.isfinite() & (values >= low) & (values <= high))
        if outside.any():
            number = int(outside.nonzero()[0])
            place = ", ".join(
                f"{n} {v:g}" for n, v in zip(world.state_names, goals[number].tolist(), strict=True)
            )
            raise UserError(f"goal {number} ({place}) is outside the world: {name} is {low:g} to {high:g}")


def shorten(actions: Tensor, reach: float) -> Tensor:
    """Actions [..., A] with a norm of at most `reach`."""
    return actions * (reach / actions.norm(dim=-1, keepdim=True).clamp(min=reach))


class Episode:
    """A `Recording` of L + 1 states and the L actions between them; action t leaves frame t.

    `actions` may be another episode's, to train a control on.
    """

    def __init__(self, world: World, states: Tensor, actions: Tensor) -> None:
        self.world, self.states, self.actions = world, states, actions

    def starts(self, frames: int) -> Sequence[int]:
        """Where a window that ends within the episode may begin. Raises CorruptSample without any."""
        return window_starts(len(self.states), frames)

    def window(self, start: int, frames: int) -> Sample:
        """T frames, the T - 1 actions between them, and the state in the last one."""
        states = self.states[start : start + frames]
        actions = self.actions[start : start + frames - 1]
        return Sample(
            {"film": self.world.render(states)}, {"actions": actions}, targets={"state": states[-1]}
        )


def window_starts(length: int, frames: int) -> range:
    """The starts of windows inside an episode of `length` frames. Raises CorruptSample without any."""
    if length < frames:
        raise CorruptSample("an episode", f"it has {length} frames; a window has {frames}", "short_episode")
    return range(length - frames + 1)


def play_behaviour(world: World, count: int, length: int, split: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States [B, L + 1, S] and actions [B, L, A] of episodes that the world's own behaviour plays."""
    draw = Generator().manual_seed(3 * seed + SEEDS[split])
    states, actions, memory = [world.draw_states(count, split, draw)], [], None
    for _ in range(length):
        taken, memory = world.draw_actions(states[-1], memory, draw)
        actions.append(taken)
        states.append(world.step(states[-1], taken))
    return torch.stack(states, 1), torch.stack(actions, 1)


class WindowSettings(SourceSettings):
    """Settings of every source of windows with actions."""

    carried: ClassVar[frozenset[str]] = SourceSettings.carried | {"frames"}

    frames: int = Setting(9, ge=2, le=1000)
    """Frames of a window, T; `transforms.film.frames` is the same."""
    shuffle_actions: bool = False
    """Gives each training episode the actions of another: a control, to learn nothing about actions."""


class PlayedSettings(WindowSettings):
    """Settings of a source whose episodes are played when they are first asked for."""

    episodes: int = Setting(4000, ge=4, le=1_000_000)
    """Episodes to train on; the other splits have a tenth."""
    length: int = Setting(40, ge=1, le=10_000)
    """Steps of an episode, L."""
    data_seed: int = Setting(0, ge=0)
    """Which episodes are played."""

    def check(self) -> None:
        """Raises UserError for episodes that are shorter than a window."""
        if self.length + 1 < self.frames:
            raise UserError(
                f"setting 'data.length' is {self.length}: episodes of {self.length + 1} frames; a window has "
                f"{self.frames} (data.frames)"
            )


class PlayedEpisodes(BaseSamples):
    """Episodes of a world in memory: states [n, L + 1, S], actions [n, L, A]."""

    def __init__(self, world: World, states: Tensor, actions: Tensor, note: str) -> None:
        self.world, self.states, self.actions, self.note = world, states, actions, note

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> Sample:
        return Sample({"film": Episode(self.world, self.states[index], self.actions[index])}, key=str(index))


class PlayedSource(ABC):
    """Base of sources whose episodes a world's behaviour plays: a subclass has `Config` and `make_world`."""

    def __init__(self, config: PlayedSettings) -> None:
        config.check()
        self.config = config
        self.world = self.make_world()

    @abstractmethod
    def make_world(self) -> World:
        """The world of these settings."""

    def fields(self) -> Fields:
        """The film, the actions between its frames, the state in its last frame."""
        steps, world = self.config.frames - 1, self.world
        return {
            "views.film": Field("clip"),
            "condition.actions": Field(
                "sequence", (steps, len(world.action_names)), names=world.action_names
            ),
            "targets.state": Field("vector", (len(world.state_names),), names=world.state_names),
        }

    def split(self, name: str) -> PlayedEpisodes:
        """`train`, `val` or `test`, in layouts of their own."""
        check_split(name)
        config = self.config
        count = config.episodes if name == "train" else max(1, config.episodes // 10)
        states, actions = play_behaviour(self.world, count, config.length, name, config.data_seed)
        if config.shuffle_actions and name == "train":
            actions = actions.roll(1, 0)
        return PlayedEpisodes(self.world, states, actions, f"{config.name}; {name}, played by its behaviour")
