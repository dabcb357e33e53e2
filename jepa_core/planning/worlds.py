"""What a world is that plans are made and played in: an environment whose states are tensors.

A world is scripted: its state says everything, so that many episodes are played at once and one can be begun
anywhere. docs/worlds.md writes one in 30 lines.

Axes: B episodes, S numbers of a state, A numbers of an action, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Generator, Tensor

from jepa_core.errors import UserError


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


@runtime_checkable
class HasWorld(Protocol):
    """A data source whose episodes are played in a world."""

    world: Any


def world_of(source: Any) -> World:
    """The world of a data source. Raises UserError where it has none."""
    if not isinstance(source, HasWorld) or not isinstance(source.world, World):
        raise UserError(f"the data source {source.config.name!r} has no world to plan in (docs/worlds.md)")
    return source.world
