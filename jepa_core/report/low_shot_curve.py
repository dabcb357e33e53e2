"""The low-shot curve of a report: accuracy against labels a class, from the saved tables of `low_shot`.

One panel a table (a method, of each task), a line a row with a band of one standard deviation over the draws.

Axes: n labels a class, on a logarithmic scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jepa_core.evaluate.score_tables import EvaluationTable
from jepa_core.plots.curves import FAINT, GRID, SERIES
from jepa_core.report.charts import THEMED
from jepa_core.report.sections import Section

NAME = "low_shot"
COLUMNS = 3
"""Panels side by side."""


def low_shot_section(tables: Sequence[EvaluationTable]) -> Section | None:
    """The section that shows the low-shot tables; None without one of two points or more."""
    shown = [table for table in tables if table.name == NAME and len(shots_of(table)) > 1]
    if not shown:
        return None
    return Section(
        "Few labels",
        "Accuracy in % against labels a class, mean over draws with a band of one standard deviation; "
        f"dashed: chance. Scored on {shown[0].count:,} {shown[0].samples} of the {shown[0].split} split.",
        lambda: draw_curves(shown),
    )


def shots_of(table: EvaluationTable) -> dict[str, int]:
    """The labels a class of each column `n…`, ascending, by the column's name."""
    matches = {name: re.fullmatch(r"n(\d+)", name) for name in table.own}
    shots = {name: int(match[1]) for name, match in matches.items() if match}
    return dict(sorted(shots.items(), key=lambda item: item[1]))


def draw_curves(tables: Sequence[EvaluationTable]) -> Figure:
    """A panel a table, three side by side, of one height; the rows' names in a legend above."""
    lines = -(-len(tables) // COLUMNS)
    with rc_context(THEMED):
        figure = Figure(figsize=(8.4, 0.5 + 2.7 * lines), layout="constrained", dpi=200)
        grid = figure.subplots(lines, min(COLUMNS, len(tables)), sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axis, table in zip(panels, tables, strict=False):
            _draw_panel(axis, table)
        for axis in panels[len(tables) :]:
            axis.set_axis_off()
        for line in grid:
            line[0].set_ylabel("accuracy, %")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _draw_panel(axis: Axes, table: EvaluationTable) -> None:
    shots = shots_of(table)
    counts = list(shots.values())
    for number, row in enumerate(table.rows):
        colour = SERIES[number % len(SERIES)]
        scores = [row.scores[name] for name in shots]
        means = [100 * score.value for score in scores]
        spreads = [100 * (score.sd or 0) for score in scores]
        low, high = (
            [mean + sign * spread for mean, spread in zip(means, spreads, strict=True)] for sign in (-1, 1)
        )
        axis.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(counts, means, color=colour, marker="o", markersize=3, linewidth=1.4, label=row.name)
    if (chance := table.own[next(iter(shots))].chance) is not None:
        axis.axhline(100 * chance, color=FAINT, linestyle="--", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("labels a class")
    axis.set_title((table.task or "").replace("_", " "), fontsize=9)
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
