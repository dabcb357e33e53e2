"""What the files of a run's folder tell without opening its model or its data.

What is unusual: every file but the recipe may be missing, damaged or cut short (an imported checkpoint has no
log, a killed run no last event). What is not known is None, never a guess.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jepa_core.errors import UserError
from jepa_core.evaluate.score_tables import EvaluationTable
from jepa_core.evaluate.table import EvalResult
from jepa_core.plots.curves import is_number
from jepa_core.recipes.duration import steps_of
from jepa_core.report.run_files import read_log, read_run_events, read_tables
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runs.labels import RunLabels, read_labels
from jepa_core.runtime.machine_load import Load
from jepa_core.settings.recipe import Recipe


@dataclass(frozen=True)
class RunSummary:
    """One run, read from its files."""

    name: str
    folder: Path
    recipe: Recipe
    metrics: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    evaluation: EvalResult | None
    """The newest probe table on the run's own data."""
    other_evaluations: Sequence[EvalResult] = ()
    """Tables of other splits, roles, data, probes and steps, those of the latest step first."""
    labels: RunLabels = field(default_factory=RunLabels)
    notes: Sequence[str] = ()
    """What could not be read, one line each."""
    has_damaged_table: bool = False
    """Whether there is a table that cannot be read: the run is not evaluated anew then, as a newer table
    would take its place."""

    @cached_property
    def start(self) -> Mapping[str, Any]:
        """The facts of the last start; empty for a run without events."""
        return next((event for event in reversed(self.events) if event["kind"] == "started"), {})

    @cached_property
    def steps(self) -> int:
        """Optimizer steps done, as far as the log and the events say."""
        logged = self.metrics[-1]["step"] if self.metrics else 0
        return max([logged, *(e["step"] for e in self.events if e["kind"] == "stopped")])

    @cached_property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole run; None where that depends on the size of its data."""
        if "total_steps" in self.start:
            return int(self.start["total_steps"])
        try:
            return steps_of(self.recipe)[0]
        except UserError:
            return None

    @cached_property
    def import_source(self) -> str | None:
        """The file, folder or model name that the weights were imported from, or None."""
        event = next((event for event in reversed(self.events) if event["kind"] == "imported"), None)
        return None if event is None else str(event.get("file", "a file that was not recorded"))

    @property
    def was_trained(self) -> bool:
        """Whether the folder tells of any training; imported weights alone have none."""
        return bool(self.metrics or any(event["kind"] in ("started", "stopped") for event in self.events))

    @cached_property
    def state(self) -> str:
        """`finished`, `stopped …`, `running, or stopped without a word`, `imported from …` or
        `not trained here`."""
        if not self.was_trained:
            return f"imported from {self.import_source}" if self.import_source else "not trained here"
        last = next((e for e in reversed(self.events) if e["kind"] in ("started", "stopped")), None)
        if self.total_steps and self.steps >= self.total_steps:
            return "finished"
        if last and last["kind"] == "stopped":
            why = str(last.get("why", "for a reason that was not recorded"))
            return why if why.startswith("stopped") else f"stopped: {why}"
        return "running, or stopped without a word"

    @property
    def alarms(self) -> list[Mapping[str, Any]]:
        """The events that say something is wrong with what is learned."""
        return [event for event in self.events if event["kind"] == "alarm"]

    @cached_property
    def logged_seconds(self) -> np.ndarray:
        """float [lines]: wall-clock seconds of training steps up to each line of the log.

        From the number of steps and the logged speed, so without start-up and evaluations; NaN before the
        first line with a speed.
        """
        seconds, before = 0.0, 0
        elapsed = np.full(len(self.metrics), np.nan)
        for number, line in enumerate(self.metrics):
            speed = line.get("images_per_s")
            if isinstance(speed, int | float) and is_number(speed) and speed > 1e-9:
                seconds += (line["step"] - before) * self.recipe.train.batch_size / speed
                before = line["step"]
                elapsed[number] = seconds
        return elapsed

    @cached_property
    def training_seconds(self) -> float | None:
        """Wall-clock time of the logged steps, without start-up and evaluations."""
        known = self.logged_seconds[~np.isnan(self.logged_seconds)]
        return float(known[-1]) if len(known) and known[-1] > 0 else None

    @cached_property
    def wall_seconds(self) -> float | None:
        """Wall-clock time of all processes that trained the run; None where one left no last event."""
        return self._sum_over_stops("seconds")

    @property
    def seconds(self) -> float | None:
        """The best known wall-clock time of the run."""
        return self.wall_seconds or self.training_seconds

    @cached_property
    def images_per_s(self) -> float | None:
        """The median speed of training, by the wall clock."""
        speeds = [line["images_per_s"] for line in self.metrics if is_number(line.get("images_per_s"))]
        return statistics.median(speeds) if speeds else None

    @property
    def images(self) -> int:
        """Images seen in training, each as often as it was."""
        return self.steps * self.recipe.train.batch_size

    @cached_property
    def cpu_seconds(self) -> float | None:
        """CPU time of the main process and its data workers; None where a process did not record it."""
        return self._sum_over_stops("cpu_seconds")

    @cached_property
    def other_cores(self) -> float | None:
        """Cores that other processes kept busy, on average over the run; None where it was not recorded."""
        stops = [e for e in self.events if e["kind"] == "stopped" and {"seconds", "other_cores"} <= e.keys()]
        seconds = sum(e["seconds"] for e in stops)
        return sum(e["seconds"] * e["other_cores"] for e in stops) / seconds if seconds else None

    @property
    def busy_note(self) -> str:
        """That other processes slowed the run down, where it is known; else empty."""
        cpu = self.start.get("environment", {}).get("cpu")
        if self.other_cores is None or cpu is None:
            return ""
        load = Load(self.other_cores, cpu["cores"])
        return f"the machine was busy: {load}" if load.slows(cpu["threads"]) else ""

    def _sum_over_stops(self, key: str) -> float | None:
        """The sum of a fact of `stopped` over all processes; None where one of them lacks it."""
        starts = [e for e in self.events if e["kind"] == "started"]
        values = [e[key] for e in self.events if e["kind"] == "stopped" and key in e]
        return sum(values) if starts and len(starts) == len(values) else None

    @property
    def tables(self) -> Sequence[EvalResult]:
        """The newest probe table of each task; empty where there are none."""
        return self.evaluation.tables if self.evaluation else ()

    @property
    def all_tables(self) -> Sequence[EvalResult]:
        """Every probe table of each task, the newest first."""
        return [*self.tables, *(table for result in self.other_evaluations for table in result.tables)]

    @property
    def evaluations(self) -> Sequence[EvaluationTable]:
        """What was measured with the model itself, in the newest evaluation."""
        return self.evaluation.evaluations if self.evaluation else ()

    def with_role(self, role: str) -> RunSummary:
        """The summary with a table of this encoder as the newest, where there is one."""
        if self.evaluation is None or self.evaluation.role in (None, role):
            return self
        table = next((t for t in self.other_evaluations if t.role == role and t.transfer is None), None)
        if table is None:
            return self
        others = [self.evaluation, *(older for older in self.other_evaluations if older is not table)]
        return replace(self, evaluation=table, other_evaluations=others)

    @property
    def table_is_older(self) -> bool:
        """Whether the probe table was made at an earlier step than the run has reached."""
        step = self.evaluation.step if self.evaluation else None
        return step is not None and step < self.steps

    def last(self, key: str) -> float | None:
        """The last finite value of a metric."""
        return next((line[key] for line in reversed(self.metrics) if is_number(line.get(key))), None)


def read(folder: Path, name: str) -> RunSummary:
    """A run's files; what cannot be read is in `notes`. Raises UserError for a folder that is no run."""
    recipe = read_run_recipe(folder)
    metrics, log_notes = read_log(folder)
    events, event_notes = read_run_events(folder)
    tables, table_notes = read_tables(folder)
    own = next((table for table in tables if table.transfer is None), None)
    return RunSummary(
        name=name,
        folder=folder,
        recipe=recipe,
        metrics=metrics,
        events=events,
        evaluation=own,
        other_evaluations=[table for table in tables if table is not own],
        labels=read_labels(folder),
        notes=[*log_notes, *event_notes, *table_notes],
        has_damaged_table=bool(table_notes),
    )


def check_distinct(folders: Sequence[Path]) -> None:
    """Raises UserError where two of the folders are the same."""
    paths = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1]
    if twice:
        raise UserError(f"the same run is named twice: {', '.join(twice)}")


def names(folders: Sequence[Path]) -> list[str]:
    """A short name for each of several distinct folders: as many of its last parts as tell all apart."""
    paths = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        short = ["/".join(parts[-count:]) for parts in paths]
        if len(set(short)) == len(short):
            return short
    raise AssertionError("two of the folders are the same")
