"""Reads the files of a run for its report, so that a missing or damaged file costs its own part only.

Each reader returns what could be read and notes, one line for each file that could not be read or had entries
that were left out. Files come from anywhere (a colleague's run, a disk that was full), so values are checked
for the types that the report's arithmetic needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError, describe_error
from jepa_core.evaluate.evaluations import EVAL, EVALUATIONS, read_table
from jepa_core.evaluate.table import EvalResult
from jepa_core.plots.curves import is_number
from jepa_core.runs.events_file import EVENTS, read_events
from jepa_core.runs.metrics_file import METRICS, read_metrics

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


def read_tables(folder: Path) -> tuple[list[EvalResult], list[str]]:
    """The probe tables of a run, eval.json's first and then those of the latest step first, and notes.

    The table of eval.json stands in `evaluations/` as well; it is listed once.
    """
    tables: list[EvalResult] = []
    notes: list[str] = []
    for file in (folder / EVAL, *_list_tables(folder / EVALUATIONS)):
        if not os.path.lexists(file):
            continue
        try:
            table = read_table(file)
        except Exception as error:  # as for the log
            reason = error if isinstance(error, UserError) else describe_error(error)
            anew = " `jepa eval` writes it anew." if file.name == EVAL else ""
            notes.append(f"{file.name} is left out: {reason}.{anew}")
            continue
        if table not in tables:
            tables.append(table)
    first = [table for table in tables[:1] if os.path.lexists(folder / EVAL) and not notes]
    others = sorted(tables[len(first) :], key=lambda table: (table.step or 0, table.time or ""), reverse=True)
    return [*first, *others], notes


def _list_tables(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError:
        return []


def _check_file(file: Path) -> None:
    """Raises UserError for a folder, a pipe or a device in a file's place: reading one may never end."""
    if file.exists() and not file.is_file():
        raise UserError(f"{file.name} is no regular file")


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
    "other_cores": _is_duration,
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
