"""Episodes in a plane without walls: policies that plan, do nothing or know the truth, and their controls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from jepa_core import Field, UserError
from jepa_core.planning import (
    PlannerSettings,
    PlanningPolicy,
    RandomPolicy,
    World,
    WorldInterface,
    check_goals,
    latent_distance,
    play,
    shorten,
    way_length,
    world_of,
)

SETTINGS = PlannerSettings(horizon=4, hold=3, candidates=64, elites=8, iterations=6, std=3.0, path=0.2)
MEAN, STD = [1.0, 0.0], [2.0, 0.5]


class Plane:
    """A world of places; nothing stands in the way."""

    state_names, action_names = ("x", "y"), ("dx", "dy")
    reach, budget, tolerance = 3.0, 20, 2.0

    def draw_states(self, count: int, split: str, generator: Generator) -> Tensor:
        return 20 * torch.rand(count, 2, generator=generator)

    def draw_goals(self, states: Tensor, generator: Generator) -> Tensor:
        return states + torch.tensor([12.0, 16.0])

    def draw_actions(
        self, states: Tensor, memory: Tensor | None, generator: Generator
    ) -> tuple[Tensor, None]:
        return torch.randn(states.shape, generator=generator), None

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return states + shorten(actions, self.reach)

    def render(self, states: Tensor) -> Tensor:
        return states[:, :1, None, None].expand(-1, 3, 4, 4).byte()

    def distance(self, states: Tensor, goals: Tensor) -> Tensor:
        return (states - goals).norm(dim=1)


def interface(width: int = 2) -> WorldInterface:
    """To a model whose actions have constants of their own."""
    fields = {"condition.actions": Field("sequence", (3, width))}
    learned = {"condition.actions": {"mean": MEAN, "std": STD}}
    transforms: Any = SimpleNamespace(fields=fields, state=lambda: learned)
    return WorldInterface(transforms, Plane(), lambda frames: frames)


def knowing(policy_of: WorldInterface, **options: Any) -> PlanningPolicy:
    """Plans by a model that knows the plane: a token is the place."""
    return PlanningPolicy(
        SETTINGS,
        encode=lambda states: states[:, None],
        target=lambda goals: goals[:, None],
        step=lambda z, actions: z + policy_of.to_world(actions)[:, None],
        cost=latent_distance,
        interface=policy_of,
        draw=Generator().manual_seed(0),
        **options,
    )


def pairs(count: int) -> tuple[Tensor, Tensor]:
    draw = Generator().manual_seed(0)
    starts = Plane().draw_states(count, "test", draw)
    return starts, Plane().draw_goals(starts, draw)


def test_who_knows_the_world_reaches_goals() -> None:
    world, (starts, goals) = Plane(), pairs(30)
    assert isinstance(world, World)
    draw = Generator().manual_seed(0)
    planned = play(world, knowing(interface()), starts, goals)
    oracle = play(world, interface().oracle(SETTINGS, draw), starts, goals)
    assert planned.success.all()
    assert oracle.success.all()
    assert planned.calls == 4 * 3 * 64 * 6
    assert planned.seconds > 0
    wrong = knowing(interface(), wrong_goal=True)
    assert play(world, wrong, starts, goals).success.sum() < 10


def test_who_does_nothing_stays_where_it_is() -> None:
    starts, goals = pairs(5)
    idle = play(Plane(), RandomPolicy(Plane(), Generator().manual_seed(0), 0.0), starts, goals)
    assert idle.success.sum() == idle.calls == 0
    torch.testing.assert_close(idle.states, starts[:, None].expand(-1, 21, -1))


def test_states_stay_as_they_were_when_the_goal_was_reached() -> None:
    starts, goals = pairs(5)
    goals[2] = starts[2] + 0.5
    played = play(Plane(), knowing(interface()), starts, goals)
    torch.testing.assert_close(played.states[2], starts[2].expand(21, -1))


def test_actions_in_the_units_of_model_and_world() -> None:
    own = interface()
    torch.testing.assert_close(own.to_world(torch.tensor([0.5, 2.0])), torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(own.to_model(torch.tensor([2.0, 1.0])), torch.tensor([0.5, 2.0]))
    assert own.to_world(torch.tensor([100.0, -5.0])).norm() == pytest.approx(3)
    torch.testing.assert_close(
        own.to_world(own.project(torch.full((4, 2), 9.0))).norm(dim=1), torch.full((4,), 3.0)
    )


def test_a_plan_goes_on_with_what_is_left_of_the_one_before() -> None:
    starts, goals = pairs(2)
    policy = knowing(interface())
    policy.begin(starts, goals)
    policy.act(starts[:, None], torch.tensor([True, False]))
    assert policy.before is not None
    assert policy.before.shape == (2, 4, 2)
    assert (policy.before[:, -1] == 0).all()
    assert (policy.before[0, :3] != 0).all()


def test_the_way_is_straight_where_a_world_says_no_other() -> None:
    starts, goals = pairs(2)
    assert way_length(Plane(), starts, goals).tolist() == pytest.approx([20, 20])


def test_goals_actions_and_sources_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"goal 1 \(x nan, y 0\) is outside the world: x is -inf to inf"):
        check_goals(Plane(), torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]))
    with pytest.raises(UserError, match="the run's actions are 3 wide; the world's are 2: dx, dy"):
        interface(3)
    source = SimpleNamespace(config=SimpleNamespace(name="films"))
    with pytest.raises(UserError, match="the data source 'films' has no world to plan in"):
        world_of(source)
    source.world = Plane()
    assert world_of(source) is source.world
