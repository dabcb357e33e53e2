"""metrics.jsonl: one JSON object a logged step, written as training goes and read back afterwards.

`step` counts finished steps from 1; `loss` and the rest are numbers. What is unusual: a number that is
not finite is null, for JSON has no NaN and strict readers refuse a file with one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.json_lines import JsonLine, is_count, read_json_lines

METRICS = "metrics.jsonl"


def to_line(step: int, metrics: Mapping[str, Any]) -> str:
    """One line of the file, with its end. Raises UserError for a metric that is no number."""
    for name, value in metrics.items():
        if not _is_number(value):
            raise UserError(f"metric {name!r} is {value!r:.60}; expected a number")
    return json.dumps({"step": step, **_replace_nonfinite(metrics)}, allow_nan=False) + "\n"


def read_metrics(file: Path | str) -> list[dict[str, Any]]:
    """The lines that have a `step`, those of one step merged (the later counts), in order of steps.

    Every other value is a finite number or None. Empty where there is no file. A last line whose writing
    was cut off is left out. Raises UserError naming any other line that is not what a run logs.
    """
    merged: dict[int, dict[str, Any]] = {}
    for line in read_json_lines(Path(file)):
        if line.value is None and line.last:
            break
        values = _values_of(line, Path(file))
        if "step" in values:
            step = values["step"]
            merged[step] = {**merged.get(step, {}), **_replace_nonfinite(values)}
    return [merged[step] for step in sorted(merged)]


def _values_of(line: JsonLine, file: Path) -> dict[str, Any]:
    """The line's object. Raises UserError where it is none, or holds what is no number."""
    where = f"{file}, line {line.number}"
    if line.value is None:
        problem = "not what a run logs at a step" if _is_json(line.text) else "not JSON"
        raise UserError(f"{where} is {problem}: {line.text[:60]!r}")
    values = line.value
    if "step" in values and not is_count(values["step"]):
        raise UserError(f"{where} is not what a run logs at a step: {line.text[:60]!r}")
    if "step" in values:
        for name, value in values.items():
            if not _is_number(value):
                raise UserError(f"{where}: {name[:60]!r} is {value!r:.60}; expected a number or null")
    return values


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_number(value: Any) -> bool:
    """Whether a value is None, or a number that a float can hold (infinity and NaN too)."""
    if not isinstance(value, int | float):
        return value is None
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _replace_nonfinite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with None for every number that is not finite."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }


def keep_until(file: Path, step: int) -> None:
    """Drops the lines after `step`: what a resumed run will write again."""
    lines = [line for line in read_metrics(file) if line["step"] <= step]
    atomic_write(file, "".join(to_line(line.pop("step"), line) for line in lines))
