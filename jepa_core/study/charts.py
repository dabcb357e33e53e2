"""The study's figures: dots by seed, intervals, curves with bands, heat maps, cost against score.

A figure is drawn once, with matplotlib, for the page (as SVG in the page's own colours) and as a PNG.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jepa_core.plots.curves import FAINT, GRID, SERIES
from jepa_core.report.charts import THEMED, png, themed_svg
from jepa_core.study.results import ArmResult, StudyResult
from jepa_core.study.words import number

MOST_ARMS = 40
"""Arms that are drawn; a page with more lists them in its table."""
NAMES_SIDE_BY_SIDE = 60
"""Letters of names, each as long as the longest, that fit below a figure side by side."""
CURVES = ("loss", "val_knn", "retrieval", "rankme")
"""Metrics of the training log that are drawn, where they were logged."""
POINTS = 120
"""Steps at which a band is drawn."""

Logs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""For each arm the training logs of its cells."""


@dataclass(frozen=True)
class Chart:
    """A figure with its name (of the PNG), its title, and how to read it."""

    name: str
    title: str
    says: str
    figure: Figure

    def svg(self) -> str:
        """The figure as an `<svg>` element that takes its colours from the page."""
        text = themed_svg(self.figure, self.name)
        return text.replace("<svg", f'<svg role="img" aria-label="{self.title}"', 1)

    def png(self) -> bytes:
        """The figure as a PNG on white."""
        return png(self.figure)


def charts(result: StudyResult, logs: Logs) -> list[Chart]:
    """Every figure for which there is something to draw."""
    draw: Sequence[Callable[[], Chart | None]] = (
        lambda: interval_chart(result),
        lambda: seed_chart(result),
        lambda: cost_chart(result),
        *(lambda key=key: curve_chart(key, logs) for key in CURVES),
    )
    with rc_context(THEMED):
        drawn = [chart for make in draw if (chart := make()) is not None]
        return drawn + heat_maps(result)


def interval_chart(result: StudyResult) -> Chart | None:
    """Each arm's difference to its baseline with the 95 % interval."""
    arms = [arm for arm in result.arms if arm.comparison and arm.comparison.difference is not None]
    arms = arms[:MOST_ARMS]
    if not arms:
        return None
    figure, axis = _canvas(5.4, 0.55 + 0.32 * len(arms), left=0.06 + 0.0135 * _longest_name(arms))
    axis.axvline(0, color=FAINT, linewidth=1)
    for row, arm in enumerate(arms):
        comparison, colour = arm.comparison, SERIES[0] if arm.verdict != "cannot tell" else FAINT
        assert comparison is not None
        if comparison.low is not None and comparison.high is not None:
            axis.plot([comparison.low, comparison.high], [row, row], color=colour, linewidth=2)
        axis.plot([comparison.difference or 0.0], [row], "o", color=colour, markersize=6)
    axis.set_yticks(range(len(arms)), [_short(arm.arm.name) for arm in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set_xlabel(f"difference to the baseline{', points' if result.percent else ''}", color=FAINT)
    says = "Mean paired difference with its 95 % t interval; grey where the interval holds 0."
    return Chart("intervals", "Difference to the baseline", says, figure)


def seed_chart(result: StudyResult) -> Chart | None:
    """A dot a run, those of one seed joined by a line; a bar at the mean."""
    arms = [arm for arm in result.arms if arm.by_seed][:MOST_ARMS]
    if not arms:
        return None
    upright = len(arms) * _longest_name(arms) > NAMES_SIDE_BY_SIDE
    room = 0.2 + 0.075 * _longest_name(arms) if upright else 0.45
    figure, axis = _canvas(5.4, 2.5 + room, bottom=room / (2.5 + room))
    for seed in dict.fromkeys(seed for arm in arms for seed in arm.by_seed):
        points = [(place, arm.by_seed[seed]) for place, arm in enumerate(arms) if seed in arm.by_seed]
        axis.plot(*zip(*points, strict=True), color=GRID, linewidth=1, zorder=1)
    for place, arm in enumerate(arms):
        colour = SERIES[place % len(SERIES)]
        values = list(arm.by_seed.values())
        axis.plot([place] * len(values), values, "o", color=colour, markersize=5, alpha=0.75, zorder=2)
        axis.plot([place - 0.25, place + 0.25], [arm.mean or 0.0] * 2, color=colour, linewidth=2, zorder=3)
    names = [_short(arm.arm.name) for arm in arms]
    turn: Any = {"rotation": 90} if upright else {}
    axis.set_xticks(range(len(arms)), names, **turn)
    axis.set_xlim(-0.5, len(arms) - 0.5)
    axis.set_ylabel(_metric(result), color=FAINT)
    return Chart(
        "seeds", "Every run", "A dot a run; lines join the runs of one seed; bars are means.", figure
    )


def cost_chart(result: StudyResult) -> Chart | None:
    """Mean score against the training time of a cell, with the standard deviation over seeds."""
    arms = [arm for arm in result.arms if arm.mean is not None and arm.train_seconds][:MOST_ARMS]
    if len(arms) < 2:
        return None
    figure, axis = _canvas(5.4, 3.0, right=0.64)
    for place, arm in enumerate(arms):
        colour, spread = SERIES[place % len(SERIES)], arm.sd or 0.0
        minutes = (arm.train_seconds or 0.0) / 60
        point: Any = {"x": [minutes], "y": [arm.mean or 0.0], "yerr": [spread], "fmt": "o"}
        axis.errorbar(**point, color=colour, markersize=6, linewidth=1.4, label=_short(arm.arm.name))
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7)
    axis.set_xlim(left=0)
    axis.set_xlabel("training time of a cell, minutes", color=FAINT)
    axis.set_ylabel(_metric(result), color=FAINT)
    says = "Mean score with one standard deviation over seeds, against the median training time of a cell."
    return Chart("cost", "Score against cost", says, figure)


def curve_chart(key: str, logs: Logs) -> Chart | None:
    """A metric of the training log over steps: the mean over seeds, and a band from least to greatest."""
    from jepa_core.plots.curves import title

    series = {arm: curves for arm, cells in list(logs.items())[:8] if (curves := _series(cells, key))}
    if not series:
        return None
    figure, axis = _canvas(5.4, 2.8, right=0.66)
    for place, (arm, lines) in enumerate(series.items()):
        steps = np.linspace(max(line[0][0] for line in lines), min(line[0][-1] for line in lines), POINTS)
        values = np.array([np.interp(steps, *line) for line in lines])
        colour = SERIES[place % len(SERIES)]
        if len(lines) > 1:
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
        axis.plot(steps, values.mean(0), color=colour, linewidth=1.6, label=_short(arm, 22))
    axis.set_xlabel("optimizer step", color=FAINT)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7)
    says = "Mean over seeds; the band reaches from the least to the greatest."
    return Chart(f"curve-{key}", title(key), says, figure)


def heat_maps(result: StudyResult) -> list[Chart]:
    """The mean score over a grid of two settings, a map for each arm of the file."""
    grid = result.study.settings.grid
    if len(grid) != 2 or result.study.settings.datasets:
        return []
    bases = dict.fromkeys(arm.arm.base for arm in result.arms)
    return [chart for base in bases if (chart := _heat_map(result, base, *grid)) is not None]


def _heat_map(result: StudyResult, base: str, across: str, down: str) -> Chart | None:
    grid = result.study.settings.grid
    values = np.full((len(grid[down]), len(grid[across])), np.nan)
    for arm in result.arms:
        if arm.arm.base == base and arm.mean is not None:
            row = grid[down].index(arm.arm.factors[down])
            values[row, grid[across].index(arm.arm.factors[across])] = arm.mean
    if np.isnan(values).all():
        return None
    figure, axis = _canvas(5.4, 0.8 + 0.4 * values.shape[0])
    axis.grid(False)
    axis.imshow(values, cmap="viridis", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > middle else "white"
        axis.text(column, row, number(float(value)), ha="center", va="center", color=colour)
    axis.set_xticks(range(len(grid[across])), [str(value) for value in grid[across]])
    axis.set_yticks(range(len(grid[down])), [str(value) for value in grid[down]])
    axis.set_xlabel(across, color=FAINT)
    axis.set_ylabel(down, color=FAINT)
    name = f"grid-{base}" if base else "grid"
    return Chart(name, f"Grid{f' of {base}' if base else ''}", f"Mean {_metric(result)}.", figure)


def _series(cells: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(steps, values) of a metric in each log that has it twice or more."""
    curves = []
    for log in cells:
        points = [(line["step"], line[key]) for line in log if isinstance(line.get(key), int | float)]
        if len(points) > 1:
            steps, values = np.array(points, dtype=float).T
            curves.append((steps, values))
    return curves


def _canvas(
    width: float, height: float, left: float = 0.12, right: float = 0.98, bottom: float = 0.2
) -> tuple[Figure, Axes]:
    """A figure of so many inches with one axis whose edges are shares of it."""
    figure = Figure(figsize=(width, height), dpi=160)
    bottom = max(bottom, 0.45 / height)
    axis = figure.add_axes((left, bottom, right - left, 0.97 - bottom))
    axis.tick_params(colors=FAINT)
    axis.spines[:].set_color(FAINT)
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def _metric(result: StudyResult) -> str:
    settings = result.study.settings
    return f"{settings.metric} on {settings.split}{', %' if result.percent else ''}"


def _short(name: str, most: int = 26) -> str:
    """An arm's name without the sections of a grid's settings: `union depth=2`; a long one is cut."""
    name = re.sub(r"(?:\w+\.)+(\w+=)", r"\1", name).replace(",", " ")
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _longest_name(arms: Sequence[ArmResult]) -> int:
    return max(len(_short(arm.arm.name)) for arm in arms)


def arm_colour(place: int) -> str:
    """The role of an arm's colour in the page's style."""
    return f"run{place % len(SERIES)}"


__all__ = ["ArmResult", "Chart", "arm_colour", "charts"]
