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

METRICS = "metrics.jsonl"


def to_line(step: int, metrics: Mapping[str, Any]) -> str:
    """One line of the file, with its end."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
    return json.dumps({"step": step, **finite}, allow_nan=False) + "\n"


def read_metrics(file: Path | str) -> list[dict[str, Any]]:
    """The lines that have a `step`, those of one step merged (the later counts), in order of steps.

    Empty where there is no file. A last line whose writing was cut off is left out.
    Raises UserError naming any other line that is not JSON.
    """
    file = Path(file)
    texts = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    merged: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            if number == len(texts):
                break
            raise UserError(f"{file}, line {number} is not JSON: {text[:60]!r}") from None
        if not isinstance(line, dict) or not isinstance(line.get("step", 0), int):
            raise UserError(f"{file}, line {number} is not what a run logs at a step: {text[:60]!r}")
        if "step" in line:
            merged[line["step"]] = {**merged.get(line["step"], {}), **line}
    return [merged[step] for step in sorted(merged)]


def keep_until(file: Path, step: int) -> None:
    """Drops the lines after `step`: what a resumed run will write again."""
    kept = [line for line in read_metrics(file) if line["step"] <= step]
    atomic_write(file, "".join(to_line(line.pop("step"), line) for line in kept))
