"""The evaluation `distant_goals`: plans over two levels beside plans over one, with as many model calls.

    two levels   the upper one chooses macro-actions that lead it near the goal; what it expects of the first
                 window is the subgoal of the lower one, which chooses the actions of that window
    one level    the lower one chooses held actions that lead it near the goal, as far ahead

What is unusual: macro-actions stay between the 2nd and 98th percentile of those of training, since others
mean nothing to the upper level; both plans are made by the same cross-entropy method. After HWM (arXiv
2604.03208, which plans with MPPI). The world is any that has what `World` says.

Axes: E episodes, C candidates, H steps of a sequence, W windows of a plan, K steps of a window, P cells, D
width, A numbers of an action, M of a macro-action.
"""

from __future__ import annotations

from collections.abc import Callable
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
from jepa_stacked.variant import ACTIONS, Stacked

PERCENTILES = (0.02, 0.98)
BATCHES = 10
"""Of training windows, whose macro-actions bound those of plans."""
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
        flat_last: int = Setting(15, ge=0)
        """Steps at the end of the budget in which both plan over one level (HWM)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> EvaluationTable | None:
        """The table; None for other variants. Raises UserError as `check_plans` and `draw_pairs`."""
        model = context.model
        if not isinstance(model, Stacked):
            return None
        world = check_plans(model, context.source)
        draw = context.generator("goals")
        scores: dict[str, dict[str, Any]] = {"two levels": {}, "one level": {}, "random actions": {}}
        calls = {}
        for distance in self.config.distances:
            starts, goals = draw_pairs(world, context.split, distance, self.config.episodes, draw)
            for row in scores:
                policy = self.policy(row, model, world, macro_bounds(context), context.generator(row))
                played = play(world, policy, starts, goals)
                calls[row] = played.calls
                scores[row][f"{distance:g} away"] = share_score(played.success.double().tolist(), 0.0)
        two, one = calls["two levels"], calls["one level"]
        note = f"Calls of predictors for a plan: {two:,} over two levels, {one:,} over one."
        count = self.config.episodes
        return context.table(scores, count=count, samples="episodes at each distance", note=note)

    def policy(
        self, row: str, model: Stacked, world: World, bounds: tuple[Tensor, Tensor], draw: Generator
    ) -> Policy:
        """What plays the episodes of a row."""
        if row == "random actions":
            return RandomPolicy(world, draw)
        config, upper = self.config, model.level(1)
        settings = self.settings(config.windows, 1.0).model_copy(update={"hold": upper.stride})
        flat = flat_policy(model, world, settings, draw)
        if row == "one level":
            return flat
        more = config.windows * upper.stride / (config.windows + upper.stride)
        settings = self.settings(config.windows, more)
        return LevelsPolicy(flat, upper, settings, bounds, config.flat_last)

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
    """Starts and goals [E, S] so far apart. Raises UserError where many draws do not give them."""
    starts = world.draw_states(100_000, split, draw)
    goals = world.draw_goals(starts, draw)
    rows = ((world.distance(starts, goals) - distance).abs() <= NEAR).nonzero()[:count, 0]
    if len(rows) < count:
        raise UserError(f"the world has {len(rows)} of {count} goals {distance:g} away (distances, episodes)")
    return starts[rows], goals[rows]


def macro_bounds(context: EvaluationContext) -> tuple[Tensor, Tensor]:
    """The least and the greatest macro-action of the second level, [M] each: of training."""
    if "macro_bounds" not in context.memory:
        level, macros = context.model.level(1), []
        for number, batch in enumerate(context.batches("train")):
            actions = batch.condition[ACTIONS]
            windows = (actions.shape[1] + 1) // level.frames
            macros.append(level.conditions(None, actions, windows)[..., : level.macro[-1].out_features])
            if number + 1 == BATCHES:
                break
        values = torch.cat(macros).flatten(0, 1)
        context.memory["macro_bounds"] = tuple(values.quantile(share, 0) for share in PERCENTILES)
    low, high = context.memory["macro_bounds"]
    return low, high


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
    """Plans macro-actions towards the goal, then actions towards what the first of them leads to.

    `settings` is of a search for macro-actions; that for actions has as many candidates.
    """

    flat: PlanningPolicy
    upper: Level
    settings: PlannerSettings
    bounds: tuple[Tensor, Tensor]
    """The least and the greatest macro-action, [M] each."""
    flat_last: int
    """Steps at the end of the budget in which it plans as `flat`."""
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
        upper, low, high = self.upper, *(bound.to(seen) for bound in self.bounds)
        now = upper.encode_windows(seen)[:, 0]
        above = RollOut(now, lambda z, macros: upper.predict(z[:, None], macros))
        unit = lambda macros: (low + high) / 2 + macros * (high - low) / 3  # noqa: E731
        macros = self.search(
            lambda tried: above.costs(unit(tried), partial(latent_distance, goals=goals), self.settings.path),
            lambda tried: tried.clamp(-1.5, 1.5),
            now.new_zeros(len(now), self.settings.horizon, len(low)),
        )
        subgoal = upper.predict(now[:, None], unit(macros[:, 0]))
        below = RollOut(seen[:, -1], self.flat.step)

        def cost(actions: Tensor) -> Tensor:
            steps = torch.stack(list(below.states(actions)), 2).flatten(0, 1)
            window = upper.encode_windows(steps)[:, 0].unflatten(0, actions.shape[:2])
            return latent_distance(window, subgoal)

        interface = self.flat.interface
        first = seen.new_zeros(len(seen), upper.stride, interface.action_width)
        actions = self.search(cost, interface.project, first)
        self.effort.calls += above.calls + below.calls
        return actions

    def search(
        self, costs: Callable[[Tensor], Tensor], project: Callable[[Tensor], Tensor], first: Tensor
    ) -> Tensor:
        """The best sequence [E, H, A] that is found (`jepa_core.planning.Problem`)."""
        return cem(Problem(costs, project, first), self.settings, self.flat.draw)
