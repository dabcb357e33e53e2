"""The source of episodes that are played in a world, and windows of them.

`two_rooms` is such a world (`jepa_core.planning.World`); docs/worlds.md writes another in 30 lines. Sources
of other episodes (`episodes`, `pusht`) share the settings of windows and have no world to plan in.

Axes: B episodes, L steps of an episode, T frames of a window, S numbers of a state, A numbers of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field as Setting
from torch import Generator, Tensor

from jepa_core import Field, Sample, UserError
from jepa_core.data import BaseSamples, CorruptSample, SourceSettings
from jepa_core.data.splits import check_split
from jepa_core.planning import World
from jepa_core.types.sample import Fields

SEEDS = {"train": 0, "val": 1, "test": 2}


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
