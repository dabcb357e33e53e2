"""One cell: trains it as an ordinary run, scores it, and says what came of it.

The outcome is a plain table (`cell.json` in the run's folder):

    identity, probing      hashes of the recipe, and of the split and probes it was scored with
    state                  done, collapsed (its features are, and it is scored), diverged (NaN), failed
    scores, shares         every score of eval.json by name, and the names of those that are shares of 1
    lower_is_better        whether a lower value of the study's metric is better
    step, images, flops    what was trained, in steps, images and floating-point operations
    train_seconds, cpu_seconds, eval_seconds
    host, commit, device, finished, attempts, error, note
"""

from __future__ import annotations

import math
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError, describe_error, printable
from jepa_core.hookspecs import hookimpl
from jepa_core.runs.lock import RunLocked
from jepa_core.runs.run import Run
from jepa_core.runtime.stop_signals import Stopped
from jepa_core.settings.recipe import Recipe
from jepa_core.study.cell_folder import prepare_folder
from jepa_core.study.ledger import Claim, Ended, Heartbeat, Ledger
from jepa_core.study.metric import (
    EVALUATIONS,
    check_labels,
    failure_of,
    is_lower_better,
    scores_of,
    shares_of,
    value_of,
)
from jepa_core.study.plan import Cell, Study, digest

DIVERGED = "the run has diverged"
"""How the collapse alarm ends where the features are not finite."""
CHECKPOINTS = 8
"""Checkpoints of a cell whose recipe asks for none, so that a cell that was cut short goes on."""


class BrokenCell(Exception):
    """A cell that ended with an error: how it is to be closed, and the error in one line."""

    def __init__(self, ended: Ended, error: str) -> None:
        super().__init__(error)
        self.ended, self.error = ended, error


class StepWatch:
    """An observer of the run: notes time and step for the claim, and stops where the claim is lost."""

    def __init__(self, heartbeat: Heartbeat, before: Mapping[str, float]) -> None:
        self.heartbeat, self.before = heartbeat, before
        self.started, self.cpu = time.monotonic(), cpu_time()

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        """Time counts from here: the data are loaded and the model is built."""
        self.started, self.cpu = time.monotonic(), cpu_time()

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        self.note(step)
        self.heartbeat.check()

    def note(self, step: int) -> None:
        """Puts what was spent so far into the claim."""
        self.heartbeat.claim.progress = {
            "seconds": time.monotonic() - self.started,
            "cpu_seconds": cpu_time() - self.cpu,
            "step": step,
        }


def cpu_time() -> float:
    """CPU seconds of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def probing_of(study: Study, recipe: Recipe) -> str:
    """Hash of what the scores depend on besides the training."""
    probes = recipe.to_table()["probes"]
    names = study.settings.probes or tuple(probes)
    chosen = {name: probes.get(name) for name in names}
    return digest({"split": study.settings.split, "images": study.settings.images, "probes": chosen})


def is_scored_alike(study: Study, recipe: Recipe, outcome: Mapping[str, Any]) -> bool:
    """Whether a cell has a result by the study's split and probes; a diverged one is not scored."""
    if outcome.get("state") == "diverged":
        return True
    return outcome.get("state") in ("done", "collapsed") and outcome.get("probing") == probing_of(
        study, recipe
    )


def run_cell(
    study: Study, cell: Cell, ledger: Ledger, claim: Claim, observers: Callable[[], list[object]]
) -> Mapping[str, Any]:
    """Trains and scores a claimed cell, publishes the outcome, and returns it.

    Raises BrokenCell, its claim closed, where there is none; `Stopped` where a signal asked the process to
    end; ClaimLost where another worker has taken the cell over.
    """
    prepare_folder(study, cell, claim.evict)
    record = ledger.records([(cell.id, cell.identity)])[cell.id]
    if record.outcome is not None and is_scored_alike(study, cell.recipe, record.outcome):
        ledger.close(claim, "done")  # finished by another worker meanwhile, or before the recipe changed
        return record.outcome
    before = {
        "seconds": sum(attempt.seconds for attempt in record.attempts),
        "cpu_seconds": sum(attempt.cpu_seconds for attempt in record.attempts),
    }
    with Heartbeat(ledger, claim) as heartbeat:
        watch = StepWatch(heartbeat, before)
        try:
            outcome = _outcome(study, cell, watch, observers)
        except (Stopped, KeyboardInterrupt):
            ledger.close(claim, "stopped")
            raise
        except RunLocked as error:  # the last owner hangs: its folder is moved away at the next try
            ledger.close(claim, "stopped", str(error))
            raise BrokenCell("stopped", str(error)) from error
        except UserError as error:
            ledger.close(claim, "user_error", printable(error))
            raise BrokenCell("user_error", printable(error)) from error
        except Exception as error:  # anything may fail in a cell, and the study goes on with the others
            heartbeat.check()
            _keep_traceback(study, cell)
            ledger.close(claim, "error", describe_error(error))
            raise BrokenCell("error", describe_error(error)) from error
        heartbeat.check()
    facts = {"attempts": len(record.attempts), **_spent(watch, before)}
    ledger.close(claim, "done", outcome={**outcome, **facts})
    return {**outcome, **facts}


def _keep_traceback(study: Study, cell: Cell) -> None:
    """Appends the error at hand to `logs/errors.txt`, for whoever has to mend it."""
    with suppress(OSError):
        (study.folder / "logs").mkdir(parents=True, exist_ok=True)
        with (study.folder / "logs/errors.txt").open("a", encoding="utf-8") as file:
            file.write(f"{cell.id}\n{traceback.format_exc()}\n")


def _spent(watch: StepWatch, before: Mapping[str, float]) -> dict[str, float]:
    """Training and CPU time of all attempts together."""
    progress = watch.heartbeat.claim.progress
    return {
        "train_seconds": round(before["seconds"] + progress.get("seconds", 0.0), 3),
        "cpu_seconds": round(before["cpu_seconds"] + progress.get("cpu_seconds", 0.0), 3),
    }


def _outcome(
    study: Study, cell: Cell, watch: StepWatch, observers: Callable[[], list[object]]
) -> dict[str, Any]:
    """What came of a cell, but for the time it took."""
    folder, ledger = study.folder_of(cell), watch.heartbeat.ledger
    facts = _facts(cell)
    reason = _train(cell, folder, watch, observers)
    step = watch.heartbeat.claim.progress.get("step", 0)
    note = reason or _final_alarm(folder)
    diverged = {**facts, "state": "diverged", "step": step, **_cost(cell.recipe, step, ledger)}
    if reason is not None or note.endswith(DIVERGED):
        return {**diverged, "note": note}
    started = time.monotonic()
    table = _evaluate(study, folder)
    scores = scores_of(table)
    if study.settings.metric not in scores:
        reason = _check_scored(table, study.settings.metric)
        return {**diverged, "note": reason}
    return {
        **facts,
        "state": "collapsed" if note else "done",
        "note": note,
        "probing": probing_of(study, cell.recipe),
        "scores": scores,
        "shares": shares_of(table),
        "lower_is_better": is_lower_better(table, study.settings.metric),
        "step": table["step"],
        "eval_seconds": round(time.monotonic() - started, 3),
        **_cost(cell.recipe, table["step"], ledger),
    }


def _check_scored(table: Mapping[str, Any], metric: str) -> str:
    """Why the metric is missing where the features are not finite. Raises UserError for any other reason."""
    if "." in metric and not metric.rpartition("/")[2].startswith(EVALUATIONS):
        check_labels(table)
    reason = failure_of(table, metric)
    if not reason:
        value_of(scores_of(table), metric)
    if "not finite" not in reason:
        raise UserError(f"the metric {metric} has no value: {reason}")
    return printable(reason)


def _facts(cell: Cell) -> dict[str, Any]:
    from jepa_core.runtime.environment import environment

    where = environment()
    gpus = ", ".join(gpu["name"] for gpu in where["gpus"])
    return {
        "identity": cell.identity,
        "host": os.uname().nodename if hasattr(os, "uname") else "",
        "device": gpus or f"{where['cpu']['model']}, {where['cpu']['threads']} threads",
        "commit": (where["git"] or {}).get("commit", ""),
        "dirty": bool((where["git"] or {}).get("dirty", False)),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def with_checkpoints(recipe: Recipe) -> Recipe:
    """The recipe with a checkpoint every eighth of the run, where it asks for none."""
    train = recipe.train
    if train.checkpoint_every or not train.steps:
        return recipe
    return replace(
        recipe, train=train.model_copy(update={"checkpoint_every": max(1, train.steps // CHECKPOINTS)})
    )


def _train(cell: Cell, folder: Path, watch: StepWatch, observers: Callable[[], list[object]]) -> str | None:
    """Trains the cell; the reason where it diverged, else None. Raises UserError for any other one."""
    from jepa_core.trainer import train
    from jepa_core.training.step_guard import StepRefused

    try:
        run = train(with_checkpoints(cell.recipe), folder, resume="auto", watch=[watch, *observers()])
    except UserError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, StepRefused):
            cause = cause.__cause__
        if cause is None:
            raise
        return printable(cause)
    watch.note(run.step)
    return None


def _evaluate(study: Study, folder: Path) -> dict[str, Any]:
    """The run's probe table, which is written to eval.json as well, as plain values."""
    from jepa_core.evaluate.run import evaluate_run

    settings = study.settings
    result = evaluate_run(folder, settings.probes, settings.split, images=settings.images)
    table: dict[str, Any] = result.model_dump(mode="json")
    return table


def _final_alarm(folder: Path) -> str:
    """The collapse alarm at the run's last logged step, or "": an alarm from which it recovered is none."""
    from jepa_core.evaluate.collapse import AlarmSettings, CollapseReading, collapse_warning
    from jepa_core.runs.metrics_file import METRICS, read_metrics

    readings = [
        CollapseReading(
            line["step"], _number(line["rankme"]), _number(line["feature_std"]), line.get("retrieval")
        )
        for line in read_metrics(folder / METRICS)
        if "rankme" in line and "feature_std" in line
    ]
    return printable(collapse_warning(readings, AlarmSettings()) or "")


def _number(value: float | None) -> float:
    """A logged number; the log has null for one that was not finite."""
    return math.nan if value is None else value


def _cost(recipe: Recipe, steps: int, ledger: Ledger) -> dict[str, Any]:
    """Images that were trained on, and the operations of the training; None where they are not counted."""
    from jepa_core.study.measure import flops_per_image

    images = steps * recipe.train.batch_size
    flops = flops_per_image(recipe, ledger)
    return {"images": images, "flops": None if flops is None else flops * images}
