"""Policies that plan, and what lies between a run's model and a world.

Axes: E episodes, S numbers of a state, H actions of a plan, A numbers of an action, N frames, P tokens of a
frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.field_transforms.single_frames import transform_frames
from jepa_core.errors import UserError
from jepa_core.planning.planners import PLANNERS, Plan, PlannerSettings, Problem, RollOut
from jepa_core.planning.play import Effort
from jepa_core.planning.worlds import World, shorten

CHUNK = 25
"""Episodes that are planned for together."""
ACTIONS = "condition.actions"


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
    interface: WorldInterface
    draw: Generator
    wrong_goal: bool = False
    """Whether each episode is planned for the goal of another."""
    effort: Effort = field(default_factory=Effort)
    before: Plan | None = field(default=None, init=False)
    goals: Tensor = field(init=False)
    """What the goals of the episodes are compared by, [E, ...]."""

    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """Reads the goals."""
        self.before, self.goals = None, self.target(goals.roll(1, 0) if self.wrong_goal else goals)

    def act(self, visited: Tensor, active: Tensor) -> Tensor:
        """The first actions of a plan, each held as the settings say."""
        s, rows = self.settings, active.nonzero()[:, 0]
        chosen = self.plan(visited[:, -1], rows)
        plans = chosen.new_zeros(len(visited), *chosen.shape[1:])
        plans[rows] = chosen
        if s.warm_start:
            rest = plans.new_zeros(len(plans), s.execute, plans.shape[-1])
            self.before = torch.cat([plans[:, s.execute :], rest], dim=1)
        held = plans[:, : s.execute].repeat_interleave(s.hold, 1)
        return self.interface.to_world(held).to(visited)

    def plan(self, states: Tensor, rows: Tensor) -> Plan:
        """Plans [rows, H, A] of some of the episodes, in the model's units, CHUNK episodes at a time."""
        with self.effort.measure(len(rows)):
            return torch.cat([self._plan(states, part) for part in rows.split(CHUNK)])

    def _plan(self, states: Tensor, rows: Tensor) -> Plan:
        s, ahead, goals = self.settings, self.roll_out(states[rows]), self.goals[rows]
        first = ahead.start.new_zeros(len(rows), s.horizon, self.interface.action_width)
        problem = Problem(
            lambda actions: ahead.costs(actions, lambda z: self.cost(z, goals), s.path),
            self.interface.project,
            first if self.before is None else self.before[rows],
        )
        made = PLANNERS[s.kind](problem, s, self.draw)
        self.effort.calls += ahead.calls
        return made

    def roll_out(self, states: Tensor) -> RollOut:
        """From world states [E, S]."""
        return RollOut(self.encode(states), self.step, self.settings.hold)


def latent_distance(z: Tensor, goals: Tensor) -> Tensor:
    """[E, C]: the mean squared distance of tokens [E, C, P, D] from the goals' [E, P, D]."""
    return (z - goals[:, None]).square().mean((2, 3))


class WorldInterface:
    """What lies between a run's model and a world: frames by the run's transforms to the features of
    `encode` ([N, C, H, W] to [N, P, D]), actions by its constants.

    Raises UserError for actions that are not as wide as the world's.
    """

    def __init__(
        self, transforms: FieldTransforms | None, world: World, encode: Callable[[Tensor], Tensor]
    ) -> None:
        self.world, self.encode = world, encode
        self.action_width = len(world.action_names)
        field = transforms.fields.get(ACTIONS) if transforms is not None else None
        if transforms is None or field is None or field.width != self.action_width:
            raise UserError(
                f"the run's actions are {None if field is None else field.width} wide; the world's are "
                f"{self.action_width}: {', '.join(world.action_names)}"
            )
        self.transforms = transforms
        learned = transforms.state().get(ACTIONS, {})
        self.mean = torch.tensor(learned.get("mean", [0.0] * self.action_width))
        self.std = torch.tensor(learned.get("std", [1.0] * self.action_width))

    @torch.no_grad()
    def look(self, states: Tensor) -> Tensor:
        """[N, P, D] of world states [N, S]: what the model makes of their frames."""
        return self.encode(transform_frames(self.transforms, self.world.render(states)))

    def to_world(self, actions: Tensor) -> Tensor:
        """The model's actions [..., A] in the world's units, no longer than its reach."""
        return shorten(actions * self.std.to(actions) + self.mean.to(actions), self.world.reach)

    def to_model(self, actions: Tensor) -> Tensor:
        """The world's actions [..., A] in the model's units."""
        return (actions - self.mean.to(actions)) / self.std.to(actions)

    def project(self, actions: Tensor) -> Tensor:
        """Actions [..., A] in the model's units, no longer than the world allows."""
        return self.to_model(self.to_world(actions))

    def oracle(self, settings: PlannerSettings, draw: Generator) -> PlanningPolicy:
        """Plans with the true states, by the world's own step and squared distance."""

        def cost(states: Tensor, goals: Tensor) -> Tensor:
            repeated = goals[:, None].expand_as(states).flatten(0, 1)
            return self.world.distance(states.flatten(0, 1), repeated).square().unflatten(0, states.shape[:2])

        return PlanningPolicy(
            settings,
            encode=lambda states: states,
            target=lambda goals: goals,
            step=lambda states, actions: self.world.step(states, self.to_world(actions)),
            cost=cost,
            interface=self,
            draw=draw,
        )
