"""Episodes that a policy plays in a world, all of them at once: with a plan, at random, or doing nothing.

Axes: E episodes, S numbers of a state, A numbers of an action, N frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from jepa_core import UserError
from jepa_world.planners import PLANNERS, PlannerSettings, Problem
from jepa_world.variant import ACTIONS, WorldModel
from jepa_world.worlds import World, check_goals, shorten

CHUNK = 25
"""Episodes that are planned for together."""


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

    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """New episodes: states and goals [E, S]."""
        ...

    def act(self, states: Tensor, active: Tensor) -> Tensor:
        """The actions [E, steps, A] of the next steps; those of episodes that are not `active` do not
        matter."""
        ...


@dataclass
class RandomPolicy:
    """Actions of random direction and length; with `scale` 0 none at all."""

    world: World
    draw: Generator
    scale: float = 1.0

    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """Nothing is remembered."""

    def act(self, states: Tensor, active: Tensor) -> Tensor:
        """One step."""
        noise = torch.randn(len(states), 1, len(self.world.action_names), generator=self.draw)
        return self.scale * shorten(noise * self.world.reach, self.world.reach)


@dataclass
class PlanningPolicy:
    """Plans with a closure (z, a) -> z, and plans anew when its first actions are taken."""

    settings: PlannerSettings
    encode: Callable[[Tensor], Tensor]
    """The planner's state [E, ...] of world states [E, S]."""
    target: Callable[[Tensor], Tensor]
    """What the goals [E, S] are compared by, [E, ...]."""
    step: Callable[[Tensor, Tensor], Tensor]
    cost: Callable[[Tensor, Tensor], Tensor]
    """Of planner's states [E, C, ...] and the goals' [E, ...], [E, C]."""
    to_world: Callable[[Tensor], Tensor]
    """Actions of the model's units in the world's, and allowed there."""
    to_model: Callable[[Tensor], Tensor]
    draw: Generator
    calls: int = 0
    seconds: float = 0.0
    plans: int = 0
    wrong_goal: bool = False
    """Whether each episode is planned for the goal of another."""
    before: Tensor | None = field(default=None, init=False)
    goals: Tensor | None = field(default=None, init=False)

    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """Reads the goals."""
        self.before, self.goals = None, self.target(goals.roll(1, 0) if self.wrong_goal else goals)

    def act(self, states: Tensor, active: Tensor) -> Tensor:
        """The first actions of a plan, each held as the settings say."""
        rows = active.nonzero()[:, 0]
        chosen = self.plan(states, rows)
        plans = states.new_zeros(len(states), *chosen.shape[1:])
        plans[rows] = chosen
        s = self.settings
        rest = plans.new_zeros(len(plans), s.execute, plans.shape[-1])
        self.before = torch.cat([plans[:, s.execute :], rest], dim=1)
        return self.to_world(plans[:, : s.execute].repeat_interleave(s.hold, 1))

    def plan(self, states: Tensor, rows: Tensor) -> Tensor:
        """Plans [rows, H, A] of some of the episodes, in the model's units, CHUNK episodes at a time."""
        began, made = time.perf_counter(), []
        for part in rows.split(CHUNK):
            problem = self.problem(states, part)
            before = None if self.before is None else self.before[part]
            made.append(PLANNERS[self.settings.kind](problem, self.settings, before, self.draw))
            self.calls += problem.calls
        self.seconds, self.plans = self.seconds + time.perf_counter() - began, self.plans + len(rows)
        return torch.cat(made)

    def problem(self, states: Tensor, rows: Tensor) -> Problem:
        """What is planned for some episodes that are in these states [E, S]."""
        assert self.goals is not None
        goals = self.goals[rows]
        start = self.encode(states[rows])
        project = lambda actions: self.to_model(self.to_world(actions))  # noqa: E731
        width = self.to_world(states.new_zeros(1, 1)).shape[-1]
        return Problem(start, self.step, lambda z: self.cost(z, goals), project, width)


def play(world: World, policy: Policy, starts: Tensor, goals: Tensor) -> Played:
    """Plays E episodes for the world's budget of steps; a goal counts that is reached at any step.

    Raises UserError for a goal outside the world.
    """
    check_goals(world, goals)
    states, visited = starts, [starts]
    success = world.distance(states, goals) <= world.tolerance
    policy.begin(starts, goals)
    while len(visited) <= world.budget:
        actions = policy.act(states, ~success) if not success.all() else None
        for number in range(1 if actions is None else actions.shape[1]):
            if actions is not None:
                following = world.step(states, actions[:, number])
                states = torch.where(success[:, None], states, following)
            visited.append(states)
            success = success | (world.distance(states, goals) <= world.tolerance)
    played = Played(success, torch.stack(visited[: world.budget + 1], 1), starts, goals)
    if isinstance(policy, PlanningPolicy) and policy.plans:
        played.calls, played.seconds = policy.calls // policy.plans, policy.seconds / policy.plans
    return played


@dataclass
class Eyes:
    """A run's model as planners see a world through it: frames by the run's transforms, actions by its
    constants."""

    model: WorldModel
    world: World

    def __post_init__(self) -> None:
        transforms = self.model.transforms
        field = transforms.fields.get(ACTIONS) if transforms is not None else None
        width = len(self.world.action_names)
        if field is None or field.width != width:
            raise UserError(
                f"the run's actions are {None if field is None else field.width} wide; the world's are "
                f"{width}: {', '.join(self.world.action_names)}"
            )
        learned = transforms.state().get(ACTIONS, {})
        self.mean = torch.tensor(learned.get("mean", [0.0] * width))
        self.std = torch.tensor(learned.get("std", [1.0] * width))

    def views(self, frames: Tensor) -> Tensor:
        """Frames uint8 [N, 3, h, w] as the encoder takes them, [N, C, H, W]."""
        transforms = self.model.transforms
        place = transforms.first_place
        length = transforms.transforms[place].output.shape[1]
        padded = torch.cat([frames, frames[-1:].expand(-len(frames) % length, -1, -1, -1)])
        clips = transforms.transform_values({place: list(padded.unflatten(0, (-1, length)))})
        view: Tensor = clips["views"][transforms.first].transpose(1, 2).flatten(0, 1)[: len(frames)]
        return view

    @torch.no_grad()
    def look(self, states: Tensor) -> Tensor:
        """[N, P, D] of world states [N, S]: what the model makes of their frames."""
        return self.model.states(self.views(self.world.render(states)), "target")

    def to_world(self, actions: Tensor) -> Tensor:
        """The model's actions [..., A] in the world's units, no longer than its reach."""
        return shorten(actions * self.std + self.mean, self.world.reach)

    def to_model(self, actions: Tensor) -> Tensor:
        """The world's actions [..., A] in the model's units."""
        return (actions - self.mean) / self.std

    def policy(self, settings: PlannerSettings, draw: Generator, wrong_goal: bool = False) -> PlanningPolicy:
        """Plans in the model's latent space: mean squared distance of its last frame from the goal's."""

        def cost(state: Tensor, goals: Tensor) -> Tensor:
            z = self.model.newest(state.flatten(0, 1)).unflatten(0, state.shape[:2])
            return (z - goals[:, None]).square().mean((2, 3))

        return PlanningPolicy(
            settings,
            encode=lambda states: self.model.start(self.look(states)),
            target=self.look,
            step=self.model.advance,
            cost=cost,
            to_world=self.to_world,
            to_model=self.to_model,
            draw=draw,
            wrong_goal=wrong_goal,
        )

    def oracle(self, settings: PlannerSettings, draw: Generator) -> PlanningPolicy:
        """The same planner on the true states, by the world's own step and squared distance."""

        def cost(states: Tensor, goals: Tensor) -> Tensor:
            repeated = goals[:, None].expand_as(states).flatten(0, 1)
            return self.world.distance(states.flatten(0, 1), repeated).square().unflatten(0, states.shape[:2])

        return PlanningPolicy(
            settings,
            encode=lambda states: states,
            target=lambda goals: goals,
            step=lambda states, actions: self.world.step(states, self.to_world(actions)),
            cost=cost,
            to_world=self.to_world,
            to_model=self.to_model,
            draw=draw,
        )


def eyes_of(model: Any, source: Any) -> Eyes:
    """A run's model and world. Raises UserError for a model that reads no actions, and a source without a
    world."""
    if not isinstance(model, WorldModel):
        raise UserError(
            f"the run's variant is {model.config.name!r}; plans are made with the variant 'world'"
        )
    world: object = getattr(source, "world", None)
    if not isinstance(world, World):
        raise UserError(
            f"the run's data source {source.config.name!r} has no world to play in; one that has: two_rooms "
            "(docs/worlds.md writes another)"
        )
    return Eyes(model, world)
