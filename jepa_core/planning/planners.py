"""Planners: actions that lead a world model, or a true world, near a goal, for many episodes at once.

    cem        refit a normal distribution to the best candidates, again and again
    mppi       average the candidates with weights exp(-cost / temperature)
    gradient   AdamW on the actions of several starts

What is unusual: a planner sees what sequences cost and a projection to those that are allowed, and nothing of
the model; `RollOut` makes such costs of a closure (z, a) -> z and a cost of z. Every planner returns the best
sequence it has seen, keeps it in the next iteration, and begins with the sequence that it is given, such as
the rest of the plan before. A roll-out holds each action for `hold` steps: sequences of few long moves are
found with far fewer candidates than of many short ones.

Sources: CEM as in LeWM and jepa-wms (Rubinstein 1999); MPPI: Williams et al. 2016 (arXiv 1509.01149).

Axes: E episodes, C candidates of each, H actions of a plan (each held), A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.settings.base import Settings


class PlannerSettings(Settings):
    """Settings of a planner. Actions are in the units of the model, after normalisation."""

    kind: Literal["cem", "mppi", "gradient"] = "cem"
    """Which planner."""
    horizon: PositiveInt = 4
    """Actions of a plan, H."""
    hold: PositiveInt = 1
    """Steps for which each of them is taken."""
    execute: PositiveInt = 1
    """Of them those that are taken before the next plan."""
    candidates: PositiveInt = 300
    """Sequences that are tried in an iteration, C."""
    elites: PositiveInt = 30
    """Best candidates that the distribution is fitted to (`cem`)."""
    iterations: PositiveInt = 30
    """Times that candidates are drawn, or gradients taken."""
    std: PositiveFloat = 1.0
    """Standard deviation of the first candidates."""
    std_floor: float = Field(0.05, ge=0)
    """Least standard deviation of later ones (`cem`)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Share of the old mean and deviation that stays at each refit (`cem`)."""
    temperature: PositiveFloat = 0.1
    """Of the weights exp(-cost / temperature), in standard deviations of the costs (`mppi`)."""
    lr: PositiveFloat = 0.1
    """Learning rate (`gradient`)."""
    path: float = Field(0.0, ge=0)
    """Weight of the mean cost over all steps beside that of the last (PLDM, eb_jepa sum them)."""
    warm_start: bool = True
    """Whether a plan begins with what is left of the one before."""

    def check(self, section: str) -> None:
        """Raises UserError for more elites than candidates, and more executed actions than a plan has; names
        the settings by the section that they stand in."""
        for name, most in {"elites": "candidates", "execute": "horizon"}.items():
            if getattr(self, name) > getattr(self, most):
                raise UserError(
                    f"setting '{section}.{name}' is {getattr(self, name)}; {section}.{most} is "
                    f"{getattr(self, most)}"
                )


Plan = Tensor
"""Actions [E, H, A]."""


@dataclass
class Problem:
    """What is to be planned, for E episodes."""

    costs: Callable[[Tensor], Tensor]
    """Of sequences [E, C, H, A], [E, C]."""
    project: Callable[[Tensor], Tensor]
    """Makes actions [..., A] allowed ones."""
    first: Plan
    """What the first candidates are drawn around."""


@dataclass
class RollOut:
    """Where sequences of actions lead, by a model or a world.

    `start` [E, ...]; `step` takes states [N, ...] and actions [N, A] to states [N, ...]; each action is held
    for `hold` steps.
    """

    start: Tensor
    step: Callable[[Tensor, Tensor], Tensor]
    hold: int = 1
    calls: int = 0
    """Times that `step` was asked for the next state of one candidate of one episode."""

    def states(self, actions: Tensor) -> Iterator[Tensor]:
        """The states [E, C, ...] after each step of sequences [E, C, H, A]."""
        e, c, h, _ = actions.shape
        state = self.start[:, None].expand(e, c, *self.start.shape[1:])
        for number in range(h * self.hold):
            action = actions[:, :, number // self.hold]
            state = self.step(state.flatten(0, 1), action.flatten(0, 1)).unflatten(0, (e, c))
            self.calls += e * c
            yield state

    def costs(self, actions: Tensor, cost: Callable[[Tensor], Tensor], path: float = 0.0) -> Tensor:
        """[E, C] of sequences [E, C, H, A]: the last state's cost, which takes states [E, C, ...], and `path`
        times the mean over all states."""
        total = 0.0 * actions.sum((2, 3))
        last = total
        for state in self.states(actions):
            last = cost(state)
            total = total + last
        return last + path * total / (actions.shape[2] * self.hold)


Planner = Callable[[Problem, PlannerSettings, Generator], Plan]
"""From a problem, settings and randomness to a plan."""


class Best:
    """The best sequence of each episode so far."""

    def __init__(self) -> None:
        self.actions: Tensor | None = None
        self.cost: Tensor | None = None

    def see(self, actions: Tensor, costs: Tensor) -> None:
        """Takes the best of candidates [E, C, H, A] with costs [E, C] where it is better."""
        cost, number = costs.detach().min(1)
        chosen = actions.detach()[torch.arange(len(cost), device=cost.device), number]
        if self.actions is None or self.cost is None:
            self.actions, self.cost = chosen, cost
            return
        better = cost < self.cost
        self.actions = torch.where(better[:, None, None], chosen, self.actions)
        self.cost = torch.where(better, cost, self.cost)

    def plan(self) -> Plan:
        """The best sequence [E, H, A]."""
        assert self.actions is not None
        return self.actions


@torch.no_grad()
def cem(problem: Problem, settings: PlannerSettings, draw: Generator) -> Plan:
    """The cross-entropy method with a diagonal normal distribution."""
    mean, best = problem.first, Best()
    std = torch.full_like(mean, settings.std)
    for _ in range(settings.iterations):
        actions, costs = try_candidates(problem, settings, mean, std, best, draw)
        chosen = costs.topk(settings.elites, dim=1, largest=False).indices
        elites = actions.gather(1, chosen[:, :, None, None].expand(-1, -1, *actions.shape[2:]))
        keep = settings.momentum
        mean = keep * mean + (1 - keep) * elites.mean(1)
        std = (keep * std + (1 - keep) * elites.std(1, correction=0)).clamp(min=settings.std_floor)
    return best.plan()


@torch.no_grad()
def mppi(problem: Problem, settings: PlannerSettings, draw: Generator) -> Plan:
    """Model predictive path integral control: a mean weighted by exp(-cost / temperature)."""
    mean, best = problem.first, Best()
    std = torch.full_like(mean, settings.std)
    for _ in range(settings.iterations):
        actions, costs = try_candidates(problem, settings, mean, std, best, draw)
        scale = costs.std(1, keepdim=True).clamp(min=1e-12) * settings.temperature
        weights = ((costs.min(1, keepdim=True).values - costs) / scale).softmax(1)
        mean = torch.einsum("ec,echa->eha", weights, actions)
    final = problem.project(mean)[:, None]
    best.see(final, problem.costs(final))
    return best.plan()


@torch.enable_grad()
def gradient(problem: Problem, settings: PlannerSettings, draw: Generator) -> Plan:
    """AdamW on the actions of C starts at once; a projection keeps them allowed after each step."""
    mean, best = problem.first, Best()
    std = torch.full_like(mean, settings.std)
    actions = candidates(problem, settings, mean, std, best, draw).detach().requires_grad_()
    optimizer = torch.optim.AdamW([actions], lr=settings.lr, weight_decay=0.0)
    for _ in range(settings.iterations):
        costs = problem.costs(actions)
        best.see(actions, costs)
        (actions.grad,) = torch.autograd.grad(costs.sum(), [actions])
        optimizer.step()
        with torch.no_grad():
            actions.copy_(problem.project(actions))
    return best.plan()


def try_candidates(
    problem: Problem, settings: PlannerSettings, mean: Tensor, std: Tensor, best: Best, draw: Generator
) -> tuple[Tensor, Tensor]:
    """`candidates` [E, C, H, A] and their costs [E, C], of which `best` takes the least."""
    actions = candidates(problem, settings, mean, std, best, draw)
    costs = problem.costs(actions)
    best.see(actions, costs)
    return actions, costs


def candidates(
    problem: Problem, settings: PlannerSettings, mean: Tensor, std: Tensor, best: Best, draw: Generator
) -> Tensor:
    """[E, C, H, A]: normal draws; the first is the mean, the second the best sequence so far."""
    e, h, a = mean.shape
    noise = torch.randn(e, settings.candidates, h, a, generator=draw).to(mean)
    noise[:, 0] = 0
    actions = mean[:, None] + std[:, None] * noise
    if best.actions is not None and settings.candidates > 1:
        actions[:, 1] = best.actions
    return problem.project(actions)


PLANNERS: dict[str, Planner] = {"cem": cem, "mppi": mppi, "gradient": gradient}
