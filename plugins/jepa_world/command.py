"""The command `jepa plan RUN`: how often a run's world model reaches goals, beside controls.

It plays episodes, trains the control twins that the run's folder `twins` does not have yet,
writes plan.json, films (plans/*.gif) and two sections of the report.

Axes: E episodes, S numbers of a state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def plan(
    run: Annotated[Path, typer.Argument(help="The folder of a run of the variant 'world'.")],
    episodes: Annotated[
        int, typer.Option(min=2, help="Episodes on held-out layouts, the same for every row.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of starts, goals and everything that is drawn.")] = 0,
    planner: Annotated[str, typer.Option(help="cem, mppi or gradient; by default the recipe's.")] = "",
    twins: Annotated[
        bool, typer.Option(help="Train the controls 'shuffled actions' and 'random encoder' if not there.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print plan.json instead of a table.")] = False,
) -> None:
    """Play episodes with a run's world model, and see how often it reaches the goal.

    Rows beside the run: a random policy, doing nothing, the same planner on the true state (oracle), a model
    that was trained with the actions of other episodes, one on a frozen random encoder, and plans for another
    episode's goal. Success has Wilson's 95 % interval, and is told by the distance of the goal too.
    """
    from rich import print as show

    from jepa_core.runtime.atomic_write import atomic_write
    from jepa_world.pictures import write_pictures

    table, played = play_rows(run, episodes, seed, planner, twins)
    atomic_write(run / "plan.json", json.dumps(table, indent=1))
    write_pictures(run, played, table)
    if as_json:
        print(json.dumps(table))
    else:
        errors = ", ".join(f"{name} {value:.3f}" for name, value in table["open_loop"].items())
        show(as_table(table), distance_table(table), f"error of the roll-out over copying: {errors}")


def play_rows(run: Path, episodes: int, seed: int, planner: str, twins: bool) -> tuple[dict[str, Any], Any]:
    """The table of plan.json, and what the run's own model played (`pictures.Shown`).

    Raises UserError for a run that cannot plan, and an unknown planner.
    """
    import torch

    from jepa_core.assembly import build
    from jepa_core.errors import unknown
    from jepa_core.planning import PLANNERS, RandomPolicy, play
    from jepa_core.runs.load import open_model
    from jepa_world.agent import agent_of
    from jepa_world.evaluation import open_loop
    from jepa_world.pictures import Shown

    recipe, model, _ = open_model(run)
    agent = agent_of(model.cpu(), build("data", recipe.data))
    settings = agent.model.config.planner
    if planner:
        if planner not in PLANNERS:
            raise unknown("planner", planner, PLANNERS)
        settings = settings.model_copy(update={"kind": planner})
    settings.check("variant.planner")
    world, draw = agent.world, torch.Generator().manual_seed(seed)
    starts = world.draw_states(episodes, "test", draw)
    goals = world.draw_goals(starts, draw)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(seed + 1)

    policies: dict[str, Any] = {
        "trained": agent.policy(settings, generator()),
        "random policy": RandomPolicy(world, generator()),
        "no-op": RandomPolicy(world, generator(), scale=0.0),
        "oracle": agent.oracle(settings, generator()),
        "wrong goal": agent.policy(settings, generator(), wrong_goal=True),
    }
    for name, folder in trained_twins(run, twins):
        _, twin, _ = open_model(folder)
        policies[name] = agent_of(twin.cpu(), build("data", recipe.data)).policy(settings, generator())
    order = [name for name in ROWS if name in policies]
    results = {name: play(world, policies[name], starts, goals) for name in order}
    rows = [row_of(name, result) for name, result in results.items()]
    table = {
        "episodes": episodes,
        "rows": rows,
        "by_distance": by_distance(world, results),
        "open_loop": open_loop(agent),
    }
    return table, Shown(policies["trained"], results)


ROWS = ("trained", "random policy", "no-op", "oracle", "shuffled actions", "random encoder", "wrong goal")
"""Of the table, in order."""
BINS = 4
"""Parts of the episodes whose success is told apart by distance."""
TWINS = {
    "shuffled actions": ("data.shuffle_actions=true",),
    "random encoder": (
        "optimizer.groups.random_encoder.match=encoder",
        "optimizer.groups.random_encoder.frozen=true",
    ),
}
"""Controls that are trained as the run was, and what differs in their recipes."""


def trained_twins(run: Path, train_missing: bool) -> Iterator[tuple[str, Path]]:
    """The name and the folder of each control that is there, or is trained now; one of another recipe than
    the run's, left by a run that was overwritten, is trained anew."""
    from jepa_core.runs.folder import read_run_recipe
    from jepa_core.runs.status import is_run, read_status
    from jepa_core.trainer import train

    for name, overrides in TWINS.items():
        folder, recipe = run / "twins" / name.replace(" ", "_"), read_run_recipe(run, *overrides)
        is_same = is_run(folder) and read_run_recipe(folder) == recipe
        if not (is_same and read_status(folder).state == "finished"):
            if not train_missing:
                continue
            typer.echo(f"training the control {name!r}, once, in {folder}", err=True)
            train(recipe, folder, resume="auto" if is_same else False, overwrite=not is_same)
        yield name, folder


def row_of(name: str, played: Any) -> dict[str, Any]:
    """A row of plan.json."""
    hits, count = int(played.success.sum()), len(played.success)
    low, high = wilson(hits, count)
    return {
        "name": name,
        "success": hits / count,
        "low": low,
        "high": high,
        "model_calls": played.calls,
        "seconds_per_plan": played.seconds,
    }


def by_distance(world: Any, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Success by the shortest way from start to goal: the episodes in BINS parts of equal number, nearest
    first."""
    from jepa_core.planning import way_length

    played = next(iter(results.values()))
    ways = way_length(world, played.starts, played.goals)
    parts = ways.argsort(stable=True).tensor_split(min(BINS, len(ways)))
    return [
        {
            "from": float(ways[part].min()),
            "to": float(ways[part].max()),
            "episodes": len(part),
            "success": {name: int(row.success[part].sum()) / len(part) for name, row in results.items()},
        }
        for part in parts
    ]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a share, of 95 % (J. Am. Stat. Assoc. 22, 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def as_table(table: dict[str, Any]) -> Any:
    """The rows for a terminal."""
    from rich.table import Table

    head = Table(title=f"goals reached, {table['episodes']} episodes on held-out layouts")
    for column in ("", "success %", "95 % interval", "model calls a plan", "plans/s"):
        head.add_column(column, justify="left" if not column else "right")
    for row in table["rows"]:
        speed = f"{1 / row['seconds_per_plan']:.3g}" if row["seconds_per_plan"] else ""
        interval = f"{100 * row['low']:.1f} – {100 * row['high']:.1f}"
        calls = f"{row['model_calls']:,}" if row["model_calls"] else ""
        head.add_row(row["name"], f"{100 * row['success']:.1f}", interval, calls, speed)
    return head


def distance_table(table: dict[str, Any]) -> Any:
    """The rows by distance for a terminal."""
    from rich.table import Table

    parts = table["by_distance"]
    head = Table(title="success % by the shortest way to the goal")
    head.add_column("")
    for part in parts:
        head.add_column(f"{part['from']:.0f} – {part['to']:.0f}", justify="right")
    for row in table["rows"]:
        head.add_row(row["name"], *(f"{100 * part['success'][row['name']]:.0f}" for part in parts))
    return head
