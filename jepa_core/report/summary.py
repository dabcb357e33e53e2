"""What a run's folder tells without opening its model or its data: what was run, how far, how long.

What is unusual: every file but the recipe may be missing or cut short (an imported checkpoint has no log, a
killed run no last word), and what cannot be known is None, never a guess.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.evaluate.table import EvalResult
from jepa_core.plots.curves import is_number
from jepa_core.recipes.duration import steps_of
from jepa_core.runs.events_file import read_events
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runs.metrics_file import METRICS, read_metrics
from jepa_core.settings.recipe import Recipe

EVAL = "eval.json"


@dataclass(frozen=True)
class RunSummary:
    """One run, read from its files."""

    name: str
    folder: Path
    recipe: Recipe
    metrics: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    evaluation: EvalResult | None

    @cached_property
    def start(self) -> Mapping[str, Any]:
        """The facts of the last start; empty for a run without a journal."""
        return next((event for event in reversed(self.events) if event["kind"] == "started"), {})

    @cached_property
    def steps(self) -> int:
        """Optimizer steps done, as far as the log and the journal say."""
        logged = self.metrics[-1]["step"] if self.metrics else 0
        return max([logged, *(e["step"] for e in self.events if e["kind"] == "stopped")])

    @cached_property
    def total_steps(self) -> int | None:
        """Optimizer steps the whole run is to have; None where that hangs on the size of its data."""
        if "total_steps" in self.start:
            return int(self.start["total_steps"])
        try:
            return steps_of(self.recipe)[0]
        except UserError:
            return None

    @property
    def trained(self) -> bool:
        """Whether the folder tells of any training; an imported checkpoint has none."""
        return bool(self.metrics or self.events)

    @cached_property
    def state(self) -> str:
        """`finished`, `stopped …`, `running, or stopped without a word`, or `not trained here`."""
        if not self.trained:
            return "not trained here"
        last = next((e for e in reversed(self.events) if e["kind"] in ("started", "stopped")), None)
        if self.total_steps and self.steps >= self.total_steps:
            return "finished"
        if last and last["kind"] == "stopped":
            why = str(last.get("why", ""))
            return why if why.startswith("stopped") else f"stopped: {why}"
        return "running, or stopped without a word"

    @property
    def alarms(self) -> list[Mapping[str, Any]]:
        """The events that say something is wrong with what is learned."""
        return [event for event in self.events if event["kind"] == "alarm"]

    @cached_property
    def training_seconds(self) -> float | None:
        """Time of the logged steps, from their number and speed: without start-up and evaluations."""
        seconds, before = 0.0, 0
        for line in self.metrics:
            if is_number(line.get("images_per_s")) and line["images_per_s"] > 0:
                seconds += (line["step"] - before) * self.recipe.train.batch_size / line["images_per_s"]
                before = line["step"]
        return seconds or None

    @cached_property
    def wall_seconds(self) -> float | None:
        """Time of all processes that worked on the run; None where one ended without a word."""
        starts = [e for e in self.events if e["kind"] == "started"]
        stops = [e["seconds"] for e in self.events if e["kind"] == "stopped" and "seconds" in e]
        return sum(stops) if starts and len(starts) == len(stops) else None

    @property
    def seconds(self) -> float | None:
        """The best known time of the run."""
        return self.wall_seconds or self.training_seconds

    @cached_property
    def images_per_s(self) -> float | None:
        """The median speed of training."""
        speeds = [line["images_per_s"] for line in self.metrics if is_number(line.get("images_per_s"))]
        return statistics.median(speeds) if speeds else None

    @property
    def images(self) -> int:
        """Images seen in training, each as often as it was."""
        return self.steps * self.recipe.train.batch_size

    def last(self, key: str) -> float | None:
        """The last finite value of a metric."""
        return next((line[key] for line in reversed(self.metrics) if is_number(line.get(key))), None)


def read(folder: Path, name: str) -> RunSummary:
    """A run's files. Raises UserError for a folder that is no run, and for a damaged log or table."""
    recipe = read_run_recipe(folder)
    metrics = read_metrics(folder / METRICS)
    return RunSummary(name, folder, recipe, metrics, read_events(folder), _evaluation(folder / EVAL))


def _evaluation(file: Path) -> EvalResult | None:
    if not file.exists():
        return None
    try:
        return EvalResult.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{file} is no probe table ({first}); `jepa eval` writes it anew") from None


def names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: its last parts, as many as tell them all apart."""
    whole = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, whole)) + 1):
        short = ["/".join(parts[-count:]) for parts in whole]
        if len(set(short)) == len(short):
            return short
    raise UserError(f"the same run is named twice: {', '.join(map(str, folders))}")
