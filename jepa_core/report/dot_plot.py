"""A dot plot of one score: a row for each configuration, a dot for each run, the mean and its interval.

What is unusual: a row is an SVG that is stretched to the width of the page, so the plot fits a phone and a
poster; dots are lines of no length with round ends, which stay round. Positions are percent of the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jepa_core.report.comparison import Comparison
from jepa_core.report.configurations import Configuration
from jepa_core.report.intervals import estimate
from jepa_core.report.line_chart import tick_text, ticks
from jepa_core.report.scores import Measure
from jepa_core.report.summary import RunSummary


def dot_plots(comparison: Comparison) -> list[dict[str, Any]]:
    """A plot for each measure that at least two runs have; best configuration first."""
    plots = (dot_plot(comparison, measure) for measure in comparison.measures)
    return [plot for plot in plots if plot is not None]


def dot_plot(comparison: Comparison, measure: Measure) -> dict[str, Any] | None:
    """What the template draws: rows with positions in percent, and the ticks of the axis."""
    groups = [group for group in comparison.configurations if measure.values(group)]
    if sum(len(measure.values(group)) for group in groups) < 2:
        return None
    groups.sort(key=lambda group: -estimate(list(measure.values(group).values())).mean)
    low, high = _range(comparison, measure, groups)

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return {
        "label": measure.label,
        "rows": [_row(comparison, measure, group, place, (low, high)) for group in groups],
        "ticks": [(place(value), tick_text(value)) for value in ticks(low, high, 5)],
        "baseline": comparison.baseline.label,
    }


def _references(comparison: Comparison, measure: Measure, group: Configuration) -> list[float]:
    runs = [run for run in group.runs if run.name in measure.values(group)]
    values = [comparison.baseline.reference(measure, run) for run in runs]
    return [value for value in values if value is not None]


def _range(comparison: Comparison, measure: Measure, groups: Sequence[Configuration]) -> tuple[float, float]:
    """The axis: all dots and references; intervals may reach beyond it by half its width."""
    values = [v for group in groups for v in measure.values(group).values()]
    values += [v for group in groups for v in _references(comparison, measure, group)]
    low, high = min(values), max(values)
    room = (high - low) / 2 or 1.0
    ends = [end for group in groups for end in _ends(measure, group)]
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    margin = 0.03 * (high - low) or 0.5
    return low - margin, high + margin


def _ends(measure: Measure, group: Configuration) -> list[float]:
    result = estimate(list(measure.values(group).values()))
    return [] if result.half is None else [result.mean - result.half, result.mean + result.half]


def _row(
    comparison: Comparison, measure: Measure, group: Configuration, place: Any, limits: tuple[float, float]
) -> dict[str, Any]:
    scores = measure.values(group)
    result = estimate(list(scores.values()))
    ends = [min(max(end, limits[0]), limits[1]) for end in _ends(measure, group)]
    references = _references(comparison, measure, group)
    spread = "" if result.half is None else f" ± {result.half:.1f}"
    return {
        "name": group.name,
        "style": group.style,
        "mean": place(result.mean),
        "text": f"{result.mean:.1f}",
        "spread": spread,
        "title": _title(comparison, measure, group),
        "interval": [place(end) for end in ends],
        "dots": [
            {"at": place(scores[run.name]), "title": _dot_title(measure, run)}
            for run in group.runs
            if run.name in scores
        ],
        "reference": place(sum(references) / len(references)) if references else None,
    }


def _title(comparison: Comparison, measure: Measure, group: Configuration) -> str:
    """The row in words: for those who hover, and for those who do not see it."""
    scores = measure.values(group)
    result = estimate(list(scores.values()))
    runs = f"{len(scores)} seeds" if len(scores) > 1 else "1 run"
    half = "" if result.half is None else f" ± {result.half:.1f} (95 % t interval)"
    gain = comparison.baseline.gains(measure, group)
    over = "" if gain is None else f", {gain.mean:+z.1f} over {comparison.baseline.label}"
    return f"{group.name}: {measure.label} {result.mean:.1f} %{half}, {runs}{over}"


def _dot_title(measure: Measure, run: RunSummary) -> str:
    error = measure.error(run)
    spread = "" if error is None else f" ± {error:.1f}"
    return f"{run.name}, seed {run.recipe.seed}: {measure.score(run):.1f} %{spread}"
