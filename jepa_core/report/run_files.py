"""Reads the files of a run for its report, so that a missing or damaged file costs its own part only.

Each reader returns what could be read and notes, one line for each file that could not be read or had entries
that were left out. Files come from anywhere (a colleague's run, a disk that was full), so values are checked
for the types that the report's arithmetic needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError, describe_error
from jepa_core.evaluate.table import EvalResult, Row
from jepa_core.plots.curves import is_number
from jepa_core.runs.events_file import EVENTS, read_events
from jepa_core.runs.metrics_file import METRICS, read_metrics

EVAL = "eval.json"
MAX_STEP = 2**53
"""Steps up to which a float holds every whole number."""

Line = Mapping[str, Any]


def read_log(folder: Path) -> tuple[Sequence[Line], list[str]]:
    """The lines of a run's metrics.jsonl, and notes."""
    try:
        _check_file(folder / METRICS)
        lines = read_metrics(folder / METRICS)
    except UserError as error:
        return [], [f"There are no curves: {error}."]
    except Exception as error:  # the file may be damaged in any way; the other parts do without it
        return [], [f"There are no curves: {METRICS} cannot be read ({describe_error(error)})."]
    usable = [line for line in lines if _is_step(line.get("step"))]
    count = len(lines) - len(usable)
    return usable, [f"{METRICS}: {_lines(count)} left out, of impossible steps."] if count else []


def read_run_events(folder: Path) -> tuple[Sequence[Line], list[str]]:
    """The events of a run, and notes."""
    try:
        _check_file(folder / EVENTS)
        entries: Sequence[Any] = read_events(folder)
    except Exception as error:  # as for the log
        reason = error if isinstance(error, UserError) else describe_error(error)
        return [], [f"What happened to the run is not known: {EVENTS} cannot be read ({reason})."]
    events = [entry for entry in entries if _is_event(entry)]
    count = len(entries) - len(events)
    notes = [f"{EVENTS}: {_lines(count)} left out, as they describe no event."] if count else []
    cleaned = [_with_usable_facts(event) for event in events]
    if any(len(new) < len(old) for new, old in zip(cleaned, events, strict=True)):
        notes.append(f"{EVENTS}: facts of an unexpected type are left out.")
    return cleaned, notes


def read_table(folder: Path) -> tuple[EvalResult | None, list[str]]:
    """The probe table of a run, None where there is none, and notes.

    A null score in the file is a score that was not finite: it is read as NaN.
    """
    file = folder / EVAL
    try:
        _check_file(file)
        return _parse_table(file) if file.exists() else None, []
    except Exception as error:  # as for the log
        first = describe_error(error).partition(" For further information")[0]
        return None, [
            f"There are no probe scores: {EVAL} holds no probe table ({first}). `jepa eval` writes it anew."
        ]


def _check_file(file: Path) -> None:
    """Raises UserError for a folder, a pipe or a device in a file's place: reading one may never end."""
    if file.exists() and not file.is_file():
        raise UserError(f"{file.name} is no regular file")


def _parse_table(file: Path) -> EvalResult:
    raw = json.loads(file.read_text(encoding="utf-8"))
    table = EvalResult.model_validate(_nulls_as_nan(raw))
    for each_task in table.tables:
        _check_rows(each_task)
    return table


def _nulls_as_nan(raw: Any) -> Any:
    """The table's JSON with NaN for each null among the numbers of its rows."""
    if not isinstance(raw, dict):
        return raw
    rows = raw.get("rows")
    if isinstance(rows, list):
        raw = {**raw, "rows": [_row_with_nan(row) for row in rows]}
    others = raw.get("others")
    if isinstance(others, list):
        raw = {**raw, "others": [_nulls_as_nan(table) for table in others]}
    return raw


def _row_with_nan(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    scores = row.get("scores")
    if isinstance(scores, dict):
        scores = {
            probe: {key: _number(value) for key, value in entries.items()}
            if isinstance(entries, dict)
            else entries
            for probe, entries in scores.items()
        }
    numbers = {key: _number(row[key]) for key in ("rankme", "feature_std") if key in row}
    return {**row, **numbers, "scores": scores}


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _check_rows(table: EvalResult) -> None:
    """Raises ValueError for a table that lacks rows, or scores that another row has."""
    if not table.rows:
        raise ValueError("it has no rows")
    if table.baseline is not None and table.baseline not in {row.name for row in table.rows}:
        raise ValueError(f"its baseline {table.baseline!r} is none of its rows")
    probes = {probe: next(iter(scores), None) for probe, scores in table.rows[0].scores.items()}
    if None in probes.values():
        raise ValueError("a probe has no score")
    if any(_headlines(row) != probes for row in table.rows):
        raise ValueError("its rows have scores of different probes")


def _headlines(row: Row) -> Mapping[str, str | None]:
    return {probe: next(iter(scores), None) for probe, scores in row.scores.items()}


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEP


def _is_event(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("kind"), str) and _is_step(entry.get("step"))


def _is_count(value: Any) -> bool:
    return _is_step(value) and value > 0


def _is_duration(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1e12


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_environment(value: Any) -> bool:
    """Whether this has the entries that `runtime.environment.environment` gives."""
    if not isinstance(value, dict):
        return False
    cpu, gpus, versions = value.get("cpu"), value.get("gpus"), value.get("versions")
    memory, git = value.get("memory_gib"), value.get("git")
    return (
        isinstance(cpu, dict)
        and "model" in cpu
        and all(_is_count(cpu.get(key)) for key in ("cores", "threads"))
        and isinstance(gpus, list)
        and all(isinstance(gpu, dict) and "name" in gpu for gpu in gpus)
        and isinstance(versions, dict)
        and isinstance(value.get("platform"), str)
        and (memory is None or is_number(memory))
        and (git is None or (isinstance(git, dict) and _is_text(git.get("commit")) and "dirty" in git))
    )


USABLE = {
    "environment": _is_environment,
    "total_steps": _is_step,
    "images": _is_count,
    "parameters": _is_count,
    "processes": _is_count,
    "seconds": _is_duration,
    "cpu_seconds": _is_duration,
    "device": _is_text,
    "precision": _is_text,
    "command": _is_text,
    "data": _is_text,
    "why": _is_text,
    "time": _is_text,
}
"""For each fact that the report calculates with, whether a value can be used."""


def _with_usable_facts(event: Line) -> Line:
    return {key: value for key, value in event.items() if key not in USABLE or USABLE[key](value)}


def _lines(count: int) -> str:
    return "1 line is" if count == 1 else f"{count} lines are"
