"""What became of a run, read from its files alone: no model, no data, no plugin and no torch is loaded.

What is unusual: every file but the recipe may be missing, cut short or of the wrong shape; what it would
have told is then left out. A run is running only while a living process holds its folder (lock.py), so one
that was killed is told from one that trains.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.recipes.toml_text import read_file
from jepa_core.runs.events_file import EVENTS, read_events
from jepa_core.runs.folder import RECIPE
from jepa_core.runs.labels import RunLabels, read_labels
from jepa_core.runs.lock import read_owner
from jepa_core.runs.metrics_file import METRICS, read_metrics

EXIT_CODES = {"finished": 0, "imported": 0, "failed": 2, "running": 3, "stopped": 75, "not started": 75}
"""Every state of a run, and the exit code of `jepa status --exit-code`: 75 asks to be started again."""

MAX_FILE = 16_000_000
"""Bytes of an evaluation's file; a longer one is not read."""

DEEPEST = 3
"""Folders below the one that is named in which runs are looked for."""

_CHECKPOINT = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    folder: Path
    recipe: str
    """The recipe's name."""
    labels: RunLabels
    state: str
    """A key of `EXIT_CODES`."""
    why: str
    """Why it stopped or failed, or who works on it; may be empty."""
    step: int
    total_steps: int | None
    """Optimizer steps it is to have; None where that hangs on the size of its data."""
    checkpoint: Path | None
    """The newest checkpoint that has all its files; what is in them is not checked."""
    started: str
    """UTC, ISO 8601; of its first start. Empty where no event tells."""
    changed: float
    """When its folder was last written to, in seconds since 1970."""
    scores: Mapping[str, float]
    """Headline of each probe on the trained features, as shares of 1; and `val_knn`, the best in training."""

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "run": str(self.folder),
            "name": self.labels.name,
            "recipe": self.recipe,
            "state": self.state,
            "why": self.why,
            "step": self.step,
            "total_steps": self.total_steps,
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "started": self.started or None,
            "changed_s_ago": round(max(0.0, time.time() - self.changed), 1),
            "scores": dict(self.scores),
            "tags": list(self.labels.tags),
            "note": self.labels.note,
        }


def find_runs(folder: Path, depth: int = DEEPEST) -> list[Path]:
    """The folder itself where it is a run, else the runs below it, by name; links are not followed.

    Raises UserError for a folder that is none or cannot be read.
    """
    if is_run(folder):
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is no folder")
    try:
        return list(_runs_below(folder, depth))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / RECIPE).is_file()


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _runs_below(path, depth - 1)


def read_status(folder: Path) -> RunStatus:
    """What a run's files tell. Raises UserError for a folder that is no run, or whose recipe is no TOML."""
    if not is_run(folder):
        raise UserError(f"{str(folder)!r} is not a run: it holds no {RECIPE}")
    recipe, events, metrics = read_file(folder / RECIPE), read_events(folder), _metrics(folder)
    checkpoint = _newest_checkpoint(folder)
    steps = [event["step"] for event in events if event["kind"] == "stopped"]
    steps += [line["step"] for line in metrics[-1:]] + [_step_of(checkpoint) if checkpoint else 0]
    starts = [event for event in events if event["kind"] == "started"]
    total = _total_steps(starts, recipe)
    state, why = _state(folder, events, max(steps), total, started=bool(metrics or checkpoint))
    return RunStatus(
        folder=folder,
        recipe=str(recipe.get("name", folder.name)),
        labels=read_labels(folder),
        state=state,
        why=why,
        step=max(steps),
        total_steps=total,
        checkpoint=checkpoint,
        started=str(starts[0].get("time", "")) if starts else "",
        changed=_last_change(folder),
        scores=_scores(folder, metrics),
    )


def _state(
    folder: Path, events: Sequence[Mapping[str, Any]], step: int, total: int | None, started: bool
) -> tuple[str, str]:
    """(state, why): who holds the folder decides, then the last event, then how far the run came."""
    owner = read_owner(folder)
    if owner is not None:
        return "running", owner.describe(time.time())
    ends = ("started", "stopped", "imported")
    last = next((event for event in reversed(events) if event["kind"] in ends), None)
    kind = "" if last is None else last["kind"]
    why = "" if last is None else str(last.get("why", ""))
    if kind == "imported":
        return "imported", ""
    if why == "finished" or (total is not None and step >= total):
        return "finished", ""
    if kind == "stopped":
        by_hand = why.startswith(("signal", "stopped", "error KeyboardInterrupt"))
        return ("stopped" if by_hand else "failed"), why
    if kind == "started":
        return "stopped", "its process is gone and recorded no end: killed, or its machine went down"
    return ("stopped", "") if started else ("not started", "")


def _total_steps(starts: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> int | None:
    train = recipe.get("train")
    steps = starts[-1].get("total_steps") if starts else None
    for value in (steps, train.get("steps") if isinstance(train, dict) else None):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _metrics(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(folder / METRICS)
    except (UserError, OSError):
        return []


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest that has every file of its manifest in the length that was written."""
    steps = [path for path in _folders(folder / "checkpoints") if _CHECKPOINT.fullmatch(path.name)]
    return next((path for path in sorted(steps, key=_step_of, reverse=True) if _has_all_files(path)), None)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _step_of(checkpoint: Path) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def _has_all_files(checkpoint: Path) -> bool:
    files = _read_json(checkpoint / "manifest.json").get("files")
    if not isinstance(files, dict) or not files:
        return False
    try:
        return all((checkpoint / name).stat().st_size == about["bytes"] for name, about in files.items())
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none that can be read."""
    try:
        if not file.is_file() or file.stat().st_size > MAX_FILE:
            return {}
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _scores(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The first score of each probe in eval.json's first row, and the best `val_knn` of the log."""
    scores: dict[str, float] = {}
    rows = _read_json(folder / "eval.json").get("rows")
    row = rows[0] if isinstance(rows, list) and rows else None
    probes = row.get("scores") if isinstance(row, dict) else None
    for name, values in probes.items() if isinstance(probes, dict) else ():
        first = next(iter(values.values()), None) if isinstance(values, dict) else None
        if isinstance(first, int | float):
            scores[name] = float(first)
    in_training = [line["val_knn"] for line in metrics if isinstance(line.get("val_knn"), int | float)]
    return scores | ({"val_knn": float(max(in_training))} if in_training else {})


def _last_change(folder: Path) -> float:
    times = []
    for path in (folder, folder / METRICS, folder / EVENTS, folder / RECIPE):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
