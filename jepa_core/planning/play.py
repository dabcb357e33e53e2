"""Episodes that a policy plays in a world, all of them at once.

Axes: E episodes, S numbers of a state, A numbers of an action.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from jepa_core.planning.worlds import World, check_goals, shorten


@dataclass
class Effort:
    """What a policy's plans took, all together."""

    plans: int = 0
    """Of one episode each."""
    calls: int = 0
    """Steps of a model."""
    seconds: float = 0.0

    @contextmanager
    def measure(self, plans: int) -> Iterator[None]:
        """Counts so many plans and the time that they take."""
        began = time.perf_counter()
        yield
        self.plans, self.seconds = self.plans + plans, self.seconds + time.perf_counter() - began


@dataclass
class Played:
    """What came of E episodes."""

    success: Tensor
    """bool [E]: whether the goal was reached at any step."""
    states: Tensor
    """[E, budget + 1, S]"""
    starts: Tensor
    goals: Tensor
    calls: int = 0
    """Steps of a model that a plan of one episode took."""
    seconds: float = 0.0
    """Of a plan of one episode."""


class Policy(Protocol):
    """Chooses the next few actions of the episodes."""

    effort: Effort

    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """New episodes: states and goals [E, S]."""
        ...

    def act(self, visited: Tensor, active: Tensor) -> Tensor:
        """The actions [E, steps, A] of the next steps of episodes that came through states [E, t + 1, S].

        Those of episodes that are not `active` do not matter.
        """
        ...


@dataclass
class RandomPolicy:
    """Actions of random direction and length; with `scale` 0 none at all."""

    world: World
    draw: Generator
    scale: float = 1.0
    effort: Effort = field(default_factory=Effort)

    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """Nothing is remembered."""

    def act(self, visited: Tensor, active: Tensor) -> Tensor:
        """One step."""
        noise = torch.randn(len(visited), 1, len(self.world.action_names), generator=self.draw)
        return self.scale * shorten(noise * self.world.reach, self.world.reach)


def play(world: World, policy: Policy, starts: Tensor, goals: Tensor) -> Played:
    """Plays E episodes for the world's budget of steps; a goal counts that is reached at any step.

    Raises UserError for a goal outside the world.
    """
    check_goals(world, goals)
    states, visited = starts, [starts]
    success = world.distance(states, goals) <= world.tolerance
    policy.begin(starts, goals)
    while len(visited) <= world.budget:
        actions = policy.act(torch.stack(visited, 1), ~success) if not success.all() else None
        for number in range(1 if actions is None else actions.shape[1]):
            if actions is not None:
                following = world.step(states, actions[:, number])
                states = torch.where(success[:, None], states, following)
            visited.append(states)
            success = success | (world.distance(states, goals) <= world.tolerance)
    plans = max(1, policy.effort.plans)
    states = torch.stack(visited[: world.budget + 1], 1)
    return Played(success, states, starts, goals, policy.effort.calls // plans, policy.effort.seconds / plans)
