"""A run's world model in a world: it sees the world's frames and plans in its own latent space."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Generator, Tensor

from jepa_core import UserError
from jepa_core.planning import (
    PlannerSettings,
    PlanningPolicy,
    World,
    WorldInterface,
    latent_distance,
    world_of,
)
from jepa_world.variant import WorldModel


class Agent(WorldInterface):
    """A world model in a world. Raises UserError for actions that are not as wide as the world's."""

    def __init__(self, model: WorldModel, world: World) -> None:
        super().__init__(model.transforms, world, partial(model.states, role="target"))
        self.model = model

    def policy(self, settings: PlannerSettings, draw: Generator, wrong_goal: bool = False) -> PlanningPolicy:
        """Plans in the model's latent space: mean squared distance of its last frame from the goal's."""

        def cost(state: Tensor, goals: Tensor) -> Tensor:
            newest = self.model.newest(state.flatten(0, 1)).unflatten(0, state.shape[:2])
            return latent_distance(newest, goals)

        return PlanningPolicy(
            settings,
            encode=lambda states: self.model.start(self.look(states)),
            target=self.look,
            step=self.model.advance,
            cost=cost,
            interface=self,
            draw=draw,
            wrong_goal=wrong_goal,
        )


def agent_of(model: Any, source: Any) -> Agent:
    """A run's model in its world. Raises UserError for a model that reads no actions, and a source without a
    world."""
    if not isinstance(model, WorldModel):
        raise UserError(
            f"the run's variant is {model.config.name!r}; plans are made with the variant 'world'"
        )
    return Agent(model, world_of(source))
