"""The evaluation `distant_goals`: plans over two levels beside plans over one, with as many model calls.

    two levels   the upper one looks for actions, held for a window each, that lead it near the goal; what it
                 expects of the first window is the subgoal of the lower one, which looks for the actions of
                 that window
    upper level  its action is taken as it is: what the search below adds
    one level    the lower one looks for held actions that lead it near the goal, as far ahead

What is unusual: the upper level's macro-actions are those of actions that the world allows, so that there are
no others among the candidates and the search has few numbers; both plans are made by the same cross-entropy
method. After HWM (arXiv 2604.03208), which searches for macro-actions within bounds, by MPPI.

Axes: E episodes, C candidates, H steps of a sequence, W windows of a plan, K steps of a window, P cells, D
width, A numbers of an action.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from jepa_core import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.score_tables import EvaluationTable, share_score
from jepa_core.planning import (
    PlannerSettings,
    PlanningPolicy,
    Policy,
    Problem,
    RandomPolicy,
    RollOut,
    World,
    WorldInterface,
    cem,
    latent_distance,
    play,
    world_of,
)
from jepa_core.settings import EvaluationSettings
from jepa_stacked.levels import Level
from jepa_stacked.variant import Stacked

ROWS = ("two levels", "upper level", "one level", "random actions")
DRAWS = 20
"""Of 100,000 starts and goals each, at most: far goals are rare."""
NEAR = 2.5
"""By how much the distance of a goal may differ from the one that is asked for."""


class DistantGoals:
    """How often goals at several distances are reached; made where it is asked for."""

    class Config(EvaluationSettings):
        """Settings of the evaluation."""

        distances: tuple[PositiveFloat, ...] = Setting((25.0, 50.0, 75.0), min_length=1)
        """Of the goals from the start, in the world's units."""
        episodes: int = Setting(40, ge=2)
        """Episodes of each distance."""
        windows: PositiveInt = 4
        """Windows that a plan looks ahead."""
        candidates: int = Setting(64, ge=4)
        """Sequences that a plan over one level tries in an iteration; one over two tries more, as each of its
        sequences takes fewer model calls."""
        iterations: PositiveInt = 4
        """Times that candidates are drawn."""
        elites: float = Setting(0.1, gt=0, le=1)
        """Share of the candidates that the next ones are drawn like."""
        flat_last: int = Setting(0, ge=0)
        """Steps at the end of the budget in which all plan over one level (HWM: 15)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> EvaluationTable | None:
        """The table; None for other variants. Raises UserError as `check_plans` and `draw_pairs`."""
        model = context.model
        if not isinstance(model, Stacked):
            return None
        world = check_plans(model, context.source)
        draw = context.generator("goals")
        scores: dict[str, dict[str, Any]] = {row: {} for row in ROWS}
        calls = {}
        for distance in self.config.distances:
            starts, goals = draw_pairs(world, context.split, distance, self.config.episodes, draw)
            for row in scores:
                policy = self.policy(row, model, world, context.generator(row))
                played = play(world, policy, starts, goals)
                calls[row] = played.calls
                scores[row][f"{distance:g} away"] = share_score(played.success.double().tolist(), 0.0)
        listed = ", ".join(f"{row} {calls[row]:,}" for row in ROWS if calls[row])
        note = f"Calls of predictors for a plan: {listed}."
        count = self.config.episodes
        return context.table(scores, count=count, samples="episodes at each distance", note=note)

    def policy(self, row: str, model: Stacked, world: World, draw: Generator) -> Policy:
        """What plays the episodes of a row."""
        if row == "random actions":
            return RandomPolicy(world, draw)
        config, upper = self.config, model.level(1)
        settings = self.settings(config.windows, 1.0).model_copy(update={"hold": upper.stride})
        flat = flat_policy(model, world, settings, draw)
        if row == "one level":
            return flat
        if row == "upper level":
            settings = self.settings(config.windows, upper.stride)
            return LevelsPolicy(flat, upper, settings, config.flat_last, alone=True)
        more = config.windows * upper.stride / (config.windows + upper.stride)
        return LevelsPolicy(flat, upper, self.settings(config.windows, more), config.flat_last)

    def settings(self, horizon: int, more: float) -> PlannerSettings:
        """Of a search for sequences of so many actions, with so many times the candidates."""
        candidates = int(self.config.candidates * more)
        return PlannerSettings(
            horizon=horizon,
            candidates=candidates,
            elites=max(2, int(self.config.elites * candidates)),
            iterations=self.config.iterations,
            std=1.5,
            path=0.1,
            warm_start=False,
        )


def check_plans(model: Stacked, source: Any) -> World:
    """The world to plan in. Raises UserError without one, and for levels that no plan is made of."""
    world = world_of(source)
    levels = [model.level(number) for number in range(len(model.names))]
    if len(levels) < 2 or any(level.macro is None or level.history > 1 for level in levels[:2]):
        raise UserError(
            "plans are made with two levels that have macro-actions and a history of 1 (variant.levels)"
        )
    if model.config.subgoals:
        raise UserError("plans are made by actions alone: set variant.subgoals=false")
    return world


def draw_pairs(
    world: World, split: str, distance: float, count: int, draw: Generator
) -> tuple[Tensor, Tensor]:
    """Starts and goals [E, S] so far apart. Raises UserError where DRAWS draws do not give them."""
    pairs: list[tuple[Tensor, Tensor]] = []
    left = count
    for _ in range(DRAWS):
        starts = world.draw_states(100_000, split, draw)
        goals = world.draw_goals(starts, draw)
        rows = ((world.distance(starts, goals) - distance).abs() <= NEAR).nonzero()[:left, 0]
        pairs.append((starts[rows], goals[rows]))
        left -= len(rows)
        if not left:
            all_starts, all_goals = zip(*pairs, strict=True)
            return torch.cat(all_starts), torch.cat(all_goals)
    raise UserError(f"the world has {count - left} of {count} goals {distance:g} away (distances, episodes)")


def flat_policy(model: Stacked, world: World, settings: PlannerSettings, draw: Generator) -> PlanningPolicy:
    """Plans by the first level alone."""
    level = model.level(0)
    macro = level.macro
    assert macro is not None
    interface = WorldInterface(model.transforms, world, partial(encode_frames, model))
    return PlanningPolicy(
        settings,
        encode=interface.look,
        target=interface.look,
        step=lambda z, actions: level.predict(z[:, None], macro(actions)),
        cost=latent_distance,
        interface=interface,
        draw=draw,
    )


def encode_frames(model: Stacked, view: Tensor) -> Tensor:
    """[N, P, D]: first-level features of frames [N, C, H, W]."""
    return model.encode_steps(view.to(next(model.parameters()).device)[:, :, None], "target")[:, 0]


@dataclass
class LevelsPolicy:
    """Plans windows towards the goal, then actions towards what the first of them leads to.

    `settings` is of either search.
    """

    flat: PlanningPolicy
    upper: Level
    settings: PlannerSettings
    flat_last: int
    """Steps at the end of the budget in which it plans as `flat`."""
    alone: bool = False
    """Whether the upper level's action is taken as it is, without a search by the lower one."""
    goals: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.effort = self.flat.effort

    @torch.no_grad()
    def begin(self, starts: Tensor, goals: Tensor) -> None:
        """Reads the goals, each as a window that stands still."""
        self.flat.begin(starts, goals)
        still = self.flat.goals[:, None].expand(-1, self.upper.stride, -1, -1)
        self.goals = self.upper.encode_windows(still)[:, 0]

    def act(self, visited: Tensor, active: Tensor) -> Tensor:
        """The actions of the next window; what came before the first state is that state, standing still."""
        interface, steps = self.flat.interface, visited.shape[1]
        if interface.world.budget - (steps - 1) <= self.flat_last:
            return self.flat.act(visited, active)
        rows = active.nonzero()[:, 0]
        window = visited[rows][:, torch.arange(steps - self.upper.stride, steps).clamp(min=0)]
        seen = interface.look(window.flatten(0, 1)).unflatten(0, window.shape[:2])
        with self.effort.measure(len(rows)):
            chosen = self.descend(seen, self.goals[rows])
        actions = chosen.new_zeros(len(visited), *chosen.shape[1:])
        actions[rows] = chosen
        return interface.to_world(actions).to(visited)

    @torch.no_grad()
    def descend(self, seen: Tensor, goals: Tensor) -> Tensor:
        """[E, K, A]: actions of episodes whose last window was [E, K, P, D], towards windows [E, P, D]."""
        s, upper, interface = self.settings, self.upper, self.flat.interface
        now = upper.encode_windows(seen)[:, 0]
        above, below = RollOut(now, self.next_window), RollOut(seen[:, -1], self.flat.step)

        def window_cost(actions: Tensor) -> Tensor:
            steps = torch.stack(list(below.states(actions)), 2).flatten(0, 1)
            window = upper.encode_windows(steps)[:, 0].unflatten(0, actions.shape[:2])
            return latent_distance(window, subgoal)

        far = Problem(
            lambda held: above.costs(held, partial(latent_distance, goals=goals), s.path),
            interface.project,
            now.new_zeros(len(now), s.horizon, interface.action_width),
        )
        held = cem(far, s, self.flat.draw)[:, :1]
        self.effort.calls += above.calls
        if self.alone:
            return held.expand(-1, upper.stride, -1)
        subgoal = self.next_window(now, held[:, 0])
        near = Problem(window_cost, interface.project, held.expand(-1, upper.stride, -1))
        actions = cem(near, s, self.flat.draw)
        self.effort.calls += below.calls
        return actions

    def next_window(self, z: Tensor, held: Tensor) -> Tensor:
        """[N, P, D]: what follows windows [N, P, D] where actions [N, A] are held for a window."""
        assert self.upper.macro is not None
        macro = self.upper.macro(held.repeat(1, self.upper.frames))
        following: Tensor = self.upper.predict(z[:, None], macro)
        return following
