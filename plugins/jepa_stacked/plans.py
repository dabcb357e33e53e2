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
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from jepa_core import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.score_tables import EvaluationTable, share_score
from jepa_core.settings import EvaluationSettings
from jepa_stacked.beginnings import to_view
from jepa_stacked.variant import ACTIONS, Stacked

PERCENTILES = (0.02, 0.98)
BATCHES = 10
"""Of training windows, whose macro-actions bound those of plans."""
NEAR = 2.5
"""By how much the distance of a goal may differ from the one that is asked for."""


@runtime_checkable
class World(Protocol):
    """An environment whose states [E, S] are tensors, as those of the plugin `world` are."""

    reach: float
    budget: int
    tolerance: float

    def draw_states(self, count: int, split: str, generator: Generator) -> Tensor:
        """Random states of a split."""
        ...

    def draw_goals(self, states: Tensor, generator: Generator) -> Tensor:
        """For each state one that is to be reached."""
        ...

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """The states after actions [E, A]."""
        ...

    def render(self, states: Tensor) -> Tensor:
        """Frames uint8 [E, 3, h, w]."""
        ...

    def distance(self, states: Tensor, goals: Tensor) -> Tensor:
        """How far each state is from its goal, [E]."""
        ...


@runtime_checkable
class HasWorld(Protocol):
    """A source whose episodes are played in a world."""

    world: Any


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
                planner = Planner(
                    model, world, self.config, macro_bounds(context), context.generator(row), row
                )
                reached = play(planner, starts, goals)
                calls[row] = planner.calls // max(1, planner.plans)
                scores[row][f"{distance:g} away"] = share_score(reached.double().tolist(), 0.0)
        two, one = calls["two levels"], calls["one level"]
        note = f"Calls of predictors for a plan: {two:,} over two levels, {one:,} over one."
        count = self.config.episodes
        return context.table(scores, count=count, samples="episodes at each distance", note=note)


def check_plans(model: Stacked, source: Any) -> World:
    """The world to plan in. Raises UserError without one, and for levels that no plan is made of."""
    if not isinstance(source, HasWorld) or not isinstance(source.world, World):
        name = source.config.name
        raise UserError(f"the data source {name!r} has no world to plan in; one that has: two_rooms")
    levels = [model.level(number) for number in range(len(model.names))]
    if len(levels) < 2 or any(level.macro is None or level.history > 1 for level in levels[:2]):
        raise UserError(
            "plans are made with two levels that have macro-actions and a history of 1 (variant.levels)"
        )
    if model.config.subgoals:
        raise UserError("plans are made by actions alone: set variant.subgoals=false")
    return source.world


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


@dataclass
class Planner:
    """Chooses the actions of the next window, in the world's units."""

    model: Stacked
    world: World
    settings: DistantGoals.Config
    bounds: tuple[Tensor, Tensor]
    draw: Generator
    row: str
    calls: int = field(default=0, init=False)
    plans: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        learned = self.model.transforms.state().get(f"condition.{ACTIONS}", {})
        width = len(learned.get("mean", [0.0, 0.0]))
        self.mean = torch.tensor(learned.get("mean", [0.0] * width))
        self.std = torch.tensor(learned.get("std", [1.0] * width))
        self.window = self.model.level(1).stride

    def look(self, states: Tensor) -> Tensor:
        """[E, P, D]: first-level features of states [E, S]."""
        view = to_view(self.model, self.world.render(states))
        return self.model.encode_steps(view[:, :, None], "target")[:, 0]

    def shorten(self, actions: Tensor) -> Tensor:
        """Actions [..., A] in the model's units, as long as the world allows."""
        moves = actions * self.std + self.mean
        moves = moves * (self.world.reach / moves.norm(dim=-1, keepdim=True).clamp(min=self.world.reach))
        return (moves - self.mean) / self.std

    def act(self, seen: Tensor, goals: Tensor, left: int) -> Tensor:
        """Actions [E, K, A] of episodes whose last window was [E, K, P, D] and whose goals are [E, P, D],
        with so many steps left."""
        e, k, a = len(seen), self.window, len(self.mean)
        if self.row == "random actions":
            chosen = self.shorten(2 * torch.randn(e, k, a, generator=self.draw))
        elif self.row == "one level" or left <= self.settings.flat_last:
            shape = (e, self.settings.windows, a)
            held = self.search(lambda x: self.flat_cost(seen[:, -1], goals, x), shape, 1.0)
            chosen = held[:, :1].expand(-1, k, -1)
        else:
            chosen = self.descend(seen, goals)
        self.plans += e
        return chosen * self.std + self.mean

    def descend(self, seen: Tensor, goals: Tensor) -> Tensor:
        """[E, K, A]: macro-actions towards the goal, then actions towards what that expects of a window."""
        s, upper = self.settings, self.model.level(1)
        more = s.windows * self.window / (s.windows + self.window)
        now = upper.encode_windows(seen)[:, 0]
        goal = upper.encode_windows(goals[:, None].expand_as(seen))[:, 0]
        shape = (len(seen), s.windows, len(self.bounds[0]))
        macros = self.search(lambda x: self.roll_cost(1, now, goal, x), shape, more, self.bounds)
        subgoal = upper.predict(now[:, None], macros[:, 0])
        shape = (len(seen), self.window, len(self.mean))
        return self.search(lambda x: self.window_cost(seen[:, -1], subgoal, x), shape, more)

    def search(
        self,
        cost: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
        more: float,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The best sequence [E, H, A] of a cross-entropy search; `cost` takes [E, C, H, A] to [E, C]."""
        count = int(self.settings.candidates * more)
        keep = max(2, int(self.settings.elites * count))
        mean, std = torch.zeros(shape), torch.full(shape, 1.5)
        if bounds is not None:
            mean, std = mean + bounds[0].add(bounds[1]) / 2, std * (bounds[1] - bounds[0]) / 3
        best, least = mean, torch.full(shape[:1], torch.inf)
        for _ in range(self.settings.iterations):
            noise = torch.randn(shape[0], count, *shape[1:], generator=self.draw)
            tried = mean[:, None] + std[:, None] * noise
            tried[:, 0] = best
            tried = self.shorten(tried) if bounds is None else tried.clamp(*bounds)
            costs = cost(tried)
            rows = costs.topk(keep, largest=False).indices
            elites = tried[torch.arange(len(tried))[:, None], rows]
            mean, std = elites.mean(1), elites.std(1).clamp(min=0.05)
            lowest, first = costs.min(1)
            better = lowest < least
            best = torch.where(better[:, None, None], tried[torch.arange(len(tried)), first], best)
            least = torch.where(better, lowest, least)
        return best

    def roll(self, number: int, z: Tensor, conditions: Tensor) -> Tensor:
        """[E C, H, P, D]: a level from z [E, P, D], by conditions [E, C, H, M]."""
        level, (_, count, steps, _) = self.model.level(number), conditions.shape
        past = z[:, None].expand(-1, count, -1, -1).flatten(0, 1)[:, None]
        ahead = []
        for step in range(steps):
            following = level.predict(past, conditions[:, :, step].flatten(0, 1))
            past = following[:, None]
            ahead.append(following)
        self.calls += len(past) * steps
        return torch.stack(ahead, 1)

    def roll_cost(self, number: int, z: Tensor, goal: Tensor, conditions: Tensor) -> Tensor:
        """[E, C]: how far the last step is from the goal [E, P, D], and a tenth of the mean of all steps."""
        ahead = self.roll(number, z, conditions).unflatten(0, conditions.shape[:2])
        distances = (ahead - goal[:, None, None]).square().mean((3, 4))
        return distances[:, :, -1] + 0.1 * distances.mean(2)

    def flat_cost(self, z: Tensor, goal: Tensor, held: Tensor) -> Tensor:
        """[E, C] of actions [E, C, W, A] that are each held for a window."""
        actions = held.repeat_interleave(self.window, 2)
        macro = self.model.level(0).macro
        assert macro is not None
        return self.roll_cost(0, z, goal, macro(actions))

    def window_cost(self, z: Tensor, subgoal: Tensor, actions: Tensor) -> Tensor:
        """[E, C] of actions [E, C, K, A]: how far the window that results is from the subgoal [E, P, D]."""
        macro = self.model.level(0).macro
        assert macro is not None
        window = self.model.level(1).encode_windows(self.roll(0, z, macro(actions)))[:, 0]
        return (window.unflatten(0, actions.shape[:2]) - subgoal[:, None]).square().mean((2, 3))


def play(planner: Planner, starts: Tensor, goals: Tensor) -> Tensor:
    """bool [E]: whether each goal was reached within the world's budget, at any step."""
    world, states, wanted = planner.world, starts, planner.look(goals)
    seen = planner.look(starts)[:, None].repeat(1, planner.window, 1, 1)
    reached, steps = world.distance(states, goals) <= world.tolerance, 0
    while steps < world.budget and not reached.all():
        for action in planner.act(seen, wanted, world.budget - steps).unbind(1):
            states = torch.where(reached[:, None], states, world.step(states, action))
            reached = reached | (world.distance(states, goals) <= world.tolerance)
            seen = torch.cat([seen[:, 1:], planner.look(states)[:, None]], 1)
            steps += 1
    return reached
