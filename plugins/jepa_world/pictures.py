"""What `jepa plan` leaves to look at: films of episodes, plans over the room, the energy of actions.

    plans/NUMBER.gif             an episode: the world, and the goal's frame beside it
    sections/plans, distance, energy   sections of the report (`jepa_core.report.save_section`)

Axes: E episodes, H actions of a plan, T frames of a film, G points of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from jepa_core.planning import PlanningPolicy, Played, World
from jepa_core.plots.curves import FAINT, SERIES
from jepa_core.report import save_section
from jepa_core.report.picture_grid import Line, Picture
from jepa_core.report.sections import Section

FILMS, ROOMS, LANDSCAPES, POINTS, SCALE = 8, 6, 3, 25, 3
"""Films, rooms with plans, energy landscapes; points along each axis of a landscape; pixels of a film's
pixel."""


@dataclass
class Shown:
    """What was played, and what played it."""

    policy: PlanningPolicy
    results: Mapping[str, Played]


def write_pictures(run: Path, shown: Shown, table: Mapping[str, Any]) -> None:
    """Films as GIF, and sections of the report; the energy's where actions have two numbers.

    `table` is that of plan.json.
    """
    played = shown.results["trained"]
    films = [
        film(shown.policy.interface.world, played, number)
        for number in range(min(FILMS, len(played.success)))
    ]
    (run / "plans").mkdir(exist_ok=True)
    for number, frames in enumerate(films):
        images = [
            Image.fromarray(frame).resize((frame.shape[1] * SCALE, frame.shape[0] * SCALE), 0)
            for frame in frames
        ]
        images[0].save(
            run / "plans" / f"{number}.gif", save_all=True, append_images=images[1:], duration=120, loop=0
        )
    save_section(run, "plans", plans_section(shown, films))
    save_section(run, "distance", distance_section(table["by_distance"]))
    if len(shown.policy.interface.world.action_names) == 2:
        save_section(run, "energy", energy_section(shown))


def film(world: World, played: Played, number: int) -> np.ndarray:
    """uint8 [T, h, 2w + 2, 3]: an episode until its goal is reached, and the goal's frame beside it."""
    reached = world.distance(played.states[number], played.goals[number].expand_as(played.states[number]))
    steps = int((reached <= world.tolerance).float().argmax()) if played.success[number] else None
    states = played.states[number] if steps is None else played.states[number, : steps + 2]
    frames = _pixels(world.render(states))
    goal = np.broadcast_to(_pixels(world.render(played.goals[number][None])), frames.shape)
    gap = np.full((*frames.shape[:2], 2, 3), 255, np.uint8)
    return np.concatenate([frames, gap, goal], axis=2)


def _pixels(frames: Tensor) -> np.ndarray:
    pixels: np.ndarray = frames.movedim(1, -1).contiguous().numpy()
    return pixels


def plans_section(shown: Shown, films: list[np.ndarray]) -> Section:
    """Films, and rooms with the way that was taken and the first plan."""
    played = shown.results["trained"]
    pictures = [
        Picture(frames, [Line("goal reached" if ok else "not reached", bool(ok))])
        for frames, ok in zip(films, played.success.tolist(), strict=False)
    ]
    says = (
        "Episodes on held-out layouts, in the film left the world and right the goal. Below: the first plan "
        "(the states that it would lead to), the way that was taken, and the goal (+)."
    )
    return Section("Plans", says, draw=lambda: draw_rooms(shown), pictures=pictures, columns=4)


def draw_rooms(shown: Shown) -> Figure:
    """The frame of each start, with the first plan, the way that was taken and the goal over it."""
    world, played = shown.policy.interface.world, shown.results["trained"]
    count = min(ROOMS, len(played.success))
    ways = first_plans(shown, count)
    figure = Figure(figsize=(7.2, 2.6 * -(-count // 3)))
    for number in range(count):
        axis = figure.add_subplot(-(-count // 3), 3, number + 1)
        axis.imshow(_pixels(world.render(played.starts[number][None]))[0])
        for states, colour, name in (
            (ways[number], SERIES[1], "plan"),
            (played.states[number], SERIES[2], "taken"),
        ):
            axis.plot(states[:, 0] - 0.5, states[:, 1] - 0.5, color=colour, linewidth=1.5, label=name)
        axis.plot(*(played.goals[number, :2] - 0.5).tolist(), "+", color=FAINT, markersize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        if number == 0:
            axis.legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    return figure


def first_plans(shown: Shown, count: int) -> Tensor:
    """[count, steps + 1, S]: the true states that the first plan of each episode leads to."""
    played, policy = shown.results["trained"], shown.policy
    starts = played.starts[:count]
    policy.begin(starts, played.goals[:count])
    plans = policy.plan(starts, torch.arange(count)).repeat_interleave(policy.settings.hold, 1)
    states = [starts]
    for action in policy.interface.to_world(plans).unbind(1):
        states.append(policy.interface.world.step(states[-1], action))
    return torch.stack(states, 1)


def distance_section(parts: Sequence[Mapping[str, Any]]) -> Section:
    """Success of every row against the distance of the goal."""
    says = (
        "Episodes in parts of equal number by the length of the shortest way from start to goal (of the "
        "straight one where the world does not say); each point lies in the middle of its part."
    )
    return Section("Success against distance", says, draw=lambda: draw_distance(parts))


def draw_distance(parts: Sequence[Mapping[str, Any]]) -> Figure:
    """A line a row."""
    figure = Figure(figsize=(6.4, 2.8))
    axis = figure.add_subplot()
    middles = [(part["from"] + part["to"]) / 2 for part in parts]
    for number, name in enumerate(parts[0]["success"]):
        values = [100 * part["success"][name] for part in parts]
        colour = SERIES[number % len(SERIES)]
        axis.plot(middles, values, "o-", color=colour, linewidth=1.5, markersize=4, label=name)
    axis.set(ylim=(-3, 103), xlabel="shortest way to the goal", ylabel="goals reached, %")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def energy_section(shown: Shown) -> Section:
    """The cost of holding each action, as the model imagines it and as the world has it."""
    says = (
        "Squared distance from the goal after one action is held as long as the planner holds it, over all "
        "actions of the first step; left as the world model imagines it, right in the true state. Dark is "
        "near; the point is the action that the planner chose first, of a plan of several."
    )
    return Section("Energy of actions", says, draw=lambda: draw_energy(shown))


def draw_energy(shown: Shown) -> Figure:
    """Two landscapes for each of some episodes."""
    policy, played = shown.policy, shown.results["trained"]
    interface = policy.interface
    count, reach = min(LANDSCAPES, len(played.success)), interface.world.reach
    starts, axis_values = played.starts[:count], torch.linspace(-reach, reach, POINTS)
    policy.begin(starts, played.goals[:count])
    chosen = interface.to_world(policy.plan(starts, torch.arange(count)))[:, 0]
    grid = torch.cartesian_prod(axis_values, axis_values)
    actions = interface.to_model(grid)[None, :, None].expand(count, -1, -1, -1)
    oracle = interface.oracle(policy.settings, policy.draw)
    oracle.begin(starts, played.goals[:count])
    figure = Figure(figsize=(5.0, 2.4 * count))
    for column, own in enumerate((policy, oracle)):
        costs = action_costs(own, starts, actions)
        for row in range(count):
            axis = figure.add_subplot(count, 2, 2 * row + column + 1)
            axis.imshow(
                costs[row].view(POINTS, POINTS).T, extent=(-reach, reach, reach, -reach), cmap="viridis"
            )
            axis.plot(*chosen[row].tolist(), "o", color=SERIES[1], markersize=5)
            axis.set_title(("imagined", "true")[column], fontsize=8)
            axis.tick_params(labelsize=6)
    figure.tight_layout()
    return figure


@torch.no_grad()
def action_costs(policy: PlanningPolicy, starts: Tensor, actions: Tensor) -> Tensor:
    """[E, G]: what it costs to hold each of actions [E, G, 1, A], judged where that leads to."""
    return policy.roll_out(starts).costs(actions, lambda z: policy.cost(z, policy.goals))
