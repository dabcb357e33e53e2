"""Planners on points that move by the action: bounds, warm starts, held actions, costs of whole sequences."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from jepa_core import UserError
from jepa_core.planning import PLANNERS, PlannerSettings, Problem, RollOut


def unit(actions: Tensor) -> Tensor:
    """At most 1 a step."""
    return actions / actions.norm(dim=-1, keepdim=True).clamp(min=1)


def ahead(goals: Tensor, hold: int = 1) -> RollOut:
    """From zero, by the action."""
    return RollOut(torch.zeros(len(goals), 2), lambda z, a: z + a, hold)


def distance(z: Tensor, goals: Tensor) -> Tensor:
    return (z - goals[:, None]).square().sum(-1)


def near(goals: Tensor, first: Tensor, path: float = 0.0) -> tuple[Problem, RollOut]:
    """To come near goals [E, 2]."""
    rolled, cost = ahead(goals), partial(distance, goals=goals)
    return Problem(lambda actions: rolled.costs(actions, cost, path), unit, first), rolled


@pytest.mark.parametrize("kind", PLANNERS)
def test_planners_reach_a_goal_within_bounds(kind: str) -> None:
    goal = torch.tensor([[1.5, 0.0], [0.0, -2.0], [0.3, 0.4]])
    settings = PlannerSettings(kind=kind, candidates=64, elites=8, iterations=20)  # type: ignore[arg-type]
    problem, rolled = near(goal, torch.zeros(3, 3, 2))
    actions = PLANNERS[kind](problem, settings, Generator().manual_seed(0))
    assert actions.shape == (3, 3, 2)
    assert actions.norm(dim=-1).max() <= 1 + 1e-5
    assert (actions.sum(1) - goal).norm(dim=-1).max() < 0.2
    assert rolled.calls >= 3 * 64 * 3


@pytest.mark.parametrize("kind", PLANNERS)
def test_a_plan_is_no_worse_than_the_one_it_begins_with(kind: str) -> None:
    """Best-so-far and warm start: one iteration of few candidates does not lose a good plan."""
    goal = torch.tensor([[2.0, 1.0]])
    good = torch.tensor([[[0.8, 0.4], [0.8, 0.4], [0.4, 0.2]]])
    settings = PlannerSettings(kind=kind, candidates=3, elites=2, iterations=1, std=3.0)  # type: ignore[arg-type]
    problem, _ = near(goal, good)
    plan = PLANNERS[kind](problem, settings, Generator().manual_seed(0))
    before, after = (problem.costs(actions[:, None]) for actions in (good, plan))
    assert (after <= before + 1e-6).all()


def test_held_actions_and_the_cost_of_the_path() -> None:
    goal, actions = torch.tensor([[4.0, 0.0]]), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    rolled, cost = ahead(goal, hold=2), partial(distance, goals=goal)
    assert rolled.costs(actions, cost).item() == 0
    assert rolled.calls == 4
    assert rolled.costs(actions, cost, path=1.0).item() == pytest.approx((9 + 4 + 1 + 0) / 4)


@pytest.mark.parametrize("kind", PLANNERS)
def test_a_cost_may_be_of_the_whole_sequence(kind: str) -> None:
    """The highest place on the way is to be 1, the last one 0: no sum of costs of single states."""
    settings = PlannerSettings(kind=kind, candidates=128, elites=8, iterations=30)  # type: ignore[arg-type]
    rolled = ahead(torch.zeros(2, 2))

    def costs(actions: Tensor) -> Tensor:
        places = torch.stack(list(rolled.states(actions)), 2)[..., 0]
        return (places.amax(2) - 1).square() + places[:, :, -1].square()

    problem = Problem(costs, unit, torch.zeros(2, 4, 2))
    plan = PLANNERS[kind](problem, settings, Generator().manual_seed(0))
    assert costs(plan[:, None]).max() < 0.05


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match=r"setting 'x\.execute' is 5; x\.horizon is 4"):
        PlannerSettings(execute=5).check("x")
