"""What a study found: `cells.csv` with a line a cell, and `study.json` with the statistics of each arm.

`cells.csv` has the metric as eval.json has it (a share of 1 is a share of 1). In `study.json` a metric that
is a share is in percent, and differences are in percentage points.
"""

from __future__ import annotations

import csv
import io
import json
import statistics as plain
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.study.across import FEWEST, Across, across
from jepa_core.study.plan import Arm, Study
from jepa_core.study.statistics import Comparison, compare, detectable_effect, holm, smallest_p
from jepa_core.study.worker_states import CellStatus

COLUMNS = ("arm", "seed", "state", "metric", "train_seconds", "cpu_seconds", "flops", "images", "folder")
MORE = ("dataset", "steps", "eval_seconds", "attempts", "host", "commit", "identity", "note")
"""Columns of cells.csv; then the grid's settings, a column each."""


@dataclass(frozen=True)
class ArmResult:
    """One arm: its scores by pair, and what they say."""

    arm: Arm
    baseline: str | None
    scores: Mapping[tuple[str | None, int], float]
    """By (data set, seed), in the units of study.json."""
    by_seed: Mapping[int, float]
    """Mean over the data sets of every seed that has them all."""
    states: Mapping[str, int]
    """Number of cells by state."""
    steps: int | None
    """Optimizer steps of a cell; None where they differ or none has ended."""
    mean: float | None
    sd: float | None
    comparison: Comparison | None
    """None for a baseline."""
    across: Across | None = None
    """Over the data sets, from three on."""
    step_seconds: float | None = None
    """Training seconds of a step, the median of the cells."""
    flops: float | None = None
    train_seconds: float | None = None
    """Of a cell, the median."""

    @property
    def n(self) -> int:
        """Seeds with a score."""
        return len(self.by_seed)

    @property
    def bad(self) -> int:
        """Cells that diverged: results without a score."""
        return self.states.get("diverged", 0)

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `cannot tell`; an arm of which runs diverged is never better."""
        if self.comparison is None:
            return "baseline"
        return "cannot tell" if self.bad and self.comparison.verdict == "better" else self.comparison.verdict

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        empty = dict.fromkeys(("difference", "low", "high", "p_sign_flip", "p_holm", "rho", "won", "pairs"))
        return {
            "n": self.n,
            "mean": self.mean,
            "sd": self.sd,
            **empty,
            **(self.comparison.facts() if self.comparison else {}),
            "verdict": self.verdict,
            "baseline": self.baseline,
            "states": dict(self.states),
            "steps": self.steps,
            "step_seconds": self.step_seconds,
            "train_seconds": self.train_seconds,
            "flops": self.flops,
            "set": list(self.arm.overrides),
            "factors": dict(self.arm.factors),
            "origin": self.arm.origin,
            "across": self.across.facts() if self.across else None,
        }


@dataclass(frozen=True)
class StudyResult:
    """A study's cells and what they say."""

    study: Study
    cells: Sequence[CellStatus]
    arms: Sequence[ArmResult]
    percent: bool
    """Whether the metric is a share, shown in percent."""
    maximise: bool = True
    """Whether greater is better."""

    @property
    def pairs(self) -> int:
        """The most pairs of any arm, of those that were compared; else the seeds of the study."""
        counts = [arm.comparison.pairs for arm in self.arms if arm.comparison is not None]
        return max(counts, default=0) or len(self.study.settings.seeds)

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON: the content of study.json."""
        settings = self.study.settings
        counts = Counter(status.state for status in self.cells)
        return {
            "name": self.study.name,
            "recipe": settings.recipe,
            "metric": settings.metric,
            "split": settings.split,
            "unit": "percent" if self.percent else "",
            "better": "higher" if self.maximise else "lower",
            "baseline": self.study.baseline,
            "seeds": list(settings.seeds),
            "equal": settings.budget.equal,
            "chosen_on_test": settings.split == "test",
            "complete": set(counts) <= {"done", "collapsed", "diverged"},
            "states": dict(counts),
            "smallest_p": smallest_p(self.pairs),
            "detectable_sd": detectable_effect(self.pairs),
            "arms": {arm.arm.name: arm.facts() for arm in self.arms},
        }


def summarise(study: Study, cells: Sequence[CellStatus]) -> StudyResult:
    """The statistics of a study's cells as they are now."""
    metric = study.settings.metric
    scored = [status for status in cells if metric in status.outcome.get("scores", {})]
    percent = bool(scored) and all(metric in status.outcome["shares"] for status in scored)
    scale = 100.0 if percent else 1.0
    scores: dict[str, dict[tuple[str | None, int], float]] = {arm.name: {} for arm in study.arms}
    for status in scored:
        key = (status.cell.dataset, status.cell.seed)
        scores[status.cell.arm][key] = scale * status.outcome["scores"][metric]
    by_seed = {name: seed_means(own, study.datasets) for name, own in scores.items()}
    maximise = not any(status.outcome.get("lower_is_better") for status in scored)
    comparisons = {
        arm.name: compare(by_seed[arm.name], by_seed[base.name], maximise)
        for arm in study.arms
        if (base := study.baseline_of(arm)) is not None
    }
    for name in (arm.name for arm in study.arms if arm.origin == "trial" and arm.name in comparisons):
        comparisons[name] = replace(comparisons[name], p_sign_flip=None)  # the best of many is partly luck
    corrected = holm({name: comparison.p_sign_flip for name, comparison in comparisons.items()})
    arms = [_arm(study, arm, cells, scores, comparisons, corrected) for arm in study.arms]
    return StudyResult(study, cells, arms, percent, maximise)


def _arm(
    study: Study,
    arm: Arm,
    cells: Sequence[CellStatus],
    scores: Mapping[str, Mapping[tuple[str | None, int], float]],
    comparisons: Mapping[str, Comparison],
    corrected: Mapping[str, float | None],
) -> ArmResult:
    own = [status for status in cells if status.cell.arm == arm.name]
    ended = [status.outcome for status in own if status.outcome]
    base, comparison = study.baseline_of(arm), comparisons.get(arm.name)
    if comparison is not None:
        comparison = replace(comparison, p_holm=corrected.get(arm.name))
    values = list(seed_means(scores[arm.name], study.datasets).values())
    steps = {outcome["step"] for outcome in ended if outcome["state"] != "diverged"}
    return ArmResult(
        arm,
        base.name if base else None,
        scores[arm.name],
        seed_means(scores[arm.name], study.datasets),
        Counter(status.state for status in own),
        steps.pop() if len(steps) == 1 else None,
        plain.fmean(values) if values else None,
        plain.stdev(values) if len(values) > 1 else None,
        comparison,
        _across(study, scores[arm.name], scores[base.name] if base else None),
        _median([o["train_seconds"] / o["step"] for o in ended if o["step"]]),
        _median([o["flops"] for o in ended if o.get("flops") is not None]),
        _median([o["train_seconds"] for o in ended]),
    )


def seed_means(
    scores: Mapping[tuple[str | None, int], float], datasets: Sequence[str | None]
) -> dict[int, float]:
    """The mean over the data sets of each seed that has a score on all of them."""
    seeds = dict.fromkeys(seed for _, seed in scores)
    by_seed = {seed: [scores.get((dataset, seed)) for dataset in datasets] for seed in seeds}
    return {
        seed: plain.fmean(value for value in values if value is not None)
        for seed, values in by_seed.items()
        if None not in values
    }


def _median(values: Sequence[float]) -> float | None:
    return plain.median(values) if values else None


def _across(
    study: Study,
    own: Mapping[tuple[str | None, int], float],
    base: Mapping[tuple[str | None, int], float] | None,
) -> Across | None:
    """Over the data sets, where there are three or more and all have scores of both arms."""
    names = [name for name in study.datasets if name is not None]
    tables = [own] if base is None else [own, base]
    by_name = [{n: [v for (d, _), v in scores.items() if d == n] for n in names} for scores in tables]
    if len(names) < FEWEST or not all(runs for table in by_name for runs in table.values()):
        return None
    return across(by_name[0], by_name[1] if base is not None else None)


def cells_csv(result: StudyResult) -> str:
    """The text of cells.csv: a line a cell."""
    study, stream = result.study, io.StringIO()
    factors = list(study.settings.grid)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*COLUMNS, *MORE, *factors))
    arms = {arm.name: arm for arm in study.arms}
    for status in result.cells:
        cell, outcome = status.cell, status.outcome
        ended = status.state in ("done", "collapsed", "diverged")
        score = outcome.get("scores", {}).get(study.settings.metric) if ended else None
        numbers = [outcome.get(name) for name in ("train_seconds", "cpu_seconds", "flops", "images")]
        folder = f"cells/{cell.id}"
        more = [outcome.get(name) for name in ("step", "eval_seconds", "attempts", "host", "commit")]
        note = status.error or outcome.get("note")
        values = (arms[cell.arm].factors.get(key) for key in factors)
        first = (cell.arm, cell.seed, status.state, score, *numbers, folder)
        writer.writerow((*first, cell.dataset, *more, cell.identity, note, *values))
    return stream.getvalue()


def write_results(result: StudyResult) -> None:
    """Writes cells.csv and study.json into the study's folder. Raises UserError where that cannot be."""
    try:
        atomic_write(result.study.folder / "cells.csv", cells_csv(result))
        atomic_write(result.study.folder / "study.json", json.dumps(result.facts(), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"the results cannot be written: {error.strerror}: {error.filename}") from None
