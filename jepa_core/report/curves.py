"""The panels of curves on a page, drawn over steps, images, FLOPs or time; seeds of one recipe as one line.

A line of several seeds is their mean; its band reaches from the lowest to the highest seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from jepa_core.plots.curves import (
    MAX_POINTS,
    STYLES,
    Panel,
    extremes,
    is_number,
    panels,
    running_mean,
)
from jepa_core.report.line_chart import PREFIXES, Line, line_chart
from jepa_core.report.summary import RunSummary

POINTS_OF_MANY = 120
"""Points of one line where more than `FEW` lines are drawn."""
FEW = 4
AXES = {
    "step": "step",
    "images": "images",
    "flops": "FLOPs",
    "time": "time",
}
"""Choices of the x-axis: name and the text of its switch."""
UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True, eq=False)
class Course:
    """The logs that one line is drawn from: one run, or the seeds of one recipe."""

    name: str
    runs: Sequence[RunSummary]
    style: int
    flops: float | None = None
    """FLOPs of one training step for each image."""


@dataclass(frozen=True)
class Scale:
    """How a page labels one kind of x-axis."""

    label: str
    unit: float
    """What the values are divided by."""


def curve_panels(courses: Sequence[Course], axes: Sequence[str] = tuple(AXES)) -> list[dict[str, Any]]:
    """For each panel its title, its hint and a drawing for each x-axis that some run has values for.

    At most `STYLES` lines are drawn, the first ones.
    """
    courses = courses[:STYLES]
    logs = [run.metrics for course in courses for run in course.runs]
    scales = {axis: scale for axis in axes if (scale := x_scale(courses, axis)) is not None}
    made = [(panel, _charts(panel, courses, scales)) for panel in panels(logs)]
    return [{"title": panel.title, "hint": panel.hint, "charts": charts} for panel, charts in made if charts]


def x_scale(courses: Sequence[Course], axis: str) -> Scale | None:
    """The label and unit of an x-axis; None where no run has values for it."""
    ends = [
        float(np.nanmax(x))
        for course in courses
        for run in course.runs
        if (x := x_values(run, axis, course.flops)) is not None and np.isfinite(x).any()
    ]
    if not ends:
        return None
    if axis == "time":
        name, unit = next(((n, u) for n, u in UNITS if max(ends) >= 2 * u), UNITS[-1])
        return Scale(f"wall-clock time of training steps, {name}", unit)
    if axis == "flops":
        power = min(max(int(np.log10(max(max(ends), 1)) // 3), 0), len(PREFIXES) - 1)
        return Scale(f"{PREFIXES[power]}FLOP of training", 1000.0**power)
    return Scale({"step": "optimizer step", "images": "images seen"}[axis], 1.0)


def x_values(run: RunSummary, axis: str, flops: float | None) -> np.ndarray | None:
    """float [lines]: where each line of the log lies on an x-axis, NaN where unknown; None for all."""
    if not run.metrics:
        return None
    steps = np.array([line["step"] for line in run.metrics], dtype=float)
    images = steps * run.recipe.train.batch_size
    if axis == "step":
        return steps
    if axis == "images":
        return images
    if axis == "flops":
        return None if flops is None else images * flops
    return None if run.training_seconds is None else run.logged_seconds


def _charts(panel: Panel, courses: Sequence[Course], scales: dict[str, Scale]) -> list[dict[str, Any]]:
    charts = []
    for axis, scale in scales.items():
        drawn = (_line(panel, course, axis, scale, len(courses)) for course in courses)
        lines = [line for line in drawn if line is not None]
        if lines:
            chance = next((c for course in courses if (c := _chance(panel, course, axis, scale))), None)
            svg = line_chart(panel.title, scale.label, lines, panel.from_zero, chance)
            charts.append({"axis": axis, "svg": svg})
        else:
            charts.append({"axis": axis, "svg": Markup("<p>No values on this axis.</p>")})
    return charts


def _line(panel: Panel, course: Course, axis: str, scale: Scale, count: int) -> Line | None:
    max_points = MAX_POINTS if count <= FEW else POINTS_OF_MANY
    logged = [_series(run, panel.key, axis, course.flops, scale.unit) for run in course.runs]
    logged = [(x, y) for x, y in logged if len(x)]
    if not logged:
        return None
    smooth = [(x, _smooth(y) if panel.noisy else y) for x, y in logged]
    if len(smooth) > 1 and (group := mean_of(smooth)) is not None:
        x, y, low, high = group
        index = extremes(y, max_points)
        return Line(course.name, course.style, x[index], y[index], (low[index], high[index]))
    x, y = smooth[0]
    index = extremes(y, max_points)
    raw = None
    if count == 1 and y is not logged[0][1]:
        thinned = extremes(logged[0][1], max_points)
        raw = logged[0][0][thinned], logged[0][1][thinned]
    return Line(course.name, course.style, x[index], y[index], raw=raw)


def _chance(panel: Panel, course: Course, axis: str, scale: Scale) -> Line | None:
    x, y = _series(course.runs[0], f"{panel.key}_chance", axis, course.flops, scale.unit)
    index = extremes(y, POINTS_OF_MANY)
    return Line("chance", 0, x[index], y[index]) if len(x) else None


def _series(
    run: RunSummary, key: str, axis: str, flops: float | None, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of a metric's finite values, both float [n]."""
    x = x_values(run, axis, flops)
    if x is None:
        return np.empty(0), np.empty(0)
    y = np.array([line[key] if is_number(line.get(key)) else np.nan for line in run.metrics], dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known] / unit, y[known]


def _smooth(values: np.ndarray) -> np.ndarray:
    mean = running_mean(values)
    return values if mean is None else mean


def mean_of(
    series: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """(x, mean, lowest, highest) over seeds, at the x of the seed with the fewest points.

    The other seeds are interpolated linearly; only the range that all seeds have is kept, None where it
    holds no point.
    """
    x = min((x for x, _ in series), key=len)
    start, stop = max(float(x[0]) for x, _ in series), min(float(x[-1]) for x, _ in series)
    x = x[(x >= start) & (x <= stop)]
    if not len(x):
        return None
    values = np.stack([np.interp(x, *points) for points in series])
    return x, values.mean(0), values.min(0), values.max(0)
