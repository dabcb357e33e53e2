"""Planning in a world, with whatever predicts what actions lead to.

worlds      what a world is            planners   CEM, MPPI, gradient: sequences of little cost
play        episodes of a policy       policies   plans in a model's latent space, and with the true states
"""

from jepa_core.planning.planners import PLANNERS, PlannerSettings, Problem, RollOut, cem, gradient, mppi
from jepa_core.planning.play import Effort, Played, Policy, RandomPolicy, play
from jepa_core.planning.policies import PlanningPolicy, WorldInterface, latent_distance
from jepa_core.planning.worlds import (
    Bounded,
    HasWorld,
    Routed,
    World,
    check_goals,
    shorten,
    way_length,
    world_of,
)

__all__ = [
    "PLANNERS",
    "Bounded",
    "Effort",
    "HasWorld",
    "PlannerSettings",
    "PlanningPolicy",
    "Played",
    "Policy",
    "Problem",
    "RandomPolicy",
    "RollOut",
    "Routed",
    "World",
    "WorldInterface",
    "cem",
    "check_goals",
    "gradient",
    "latent_distance",
    "mppi",
    "play",
    "shorten",
    "way_length",
    "world_of",
]
