"""The comparison as a section of the fine-tuned run's report: accuracies with their errors, and chance."""

from __future__ import annotations

from matplotlib.figure import Figure

from jepa_core.evaluate.score_tables import EvaluationTable
from jepa_core.plots.curves import FAINT, GRID, SERIES
from jepa_core.report.picture_grid import TextTable
from jepa_core.report.sections import Section


def comparison_section(table: EvaluationTable) -> Section:
    """A figure and the table."""
    head, *rows = table.cells()
    return Section(
        "Fine-tuning, beside random weights and frozen features",
        table.caption(),
        lambda: draw(table),
        table=TextTable(head, rows),
    )


def draw(table: EvaluationTable) -> Figure:
    """A dot for each row at its accuracy in percent, with two standard errors to each side."""
    rows = list(reversed(table.rows))
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        score = row.scores["top1"]
        colour = SERIES[0] if row == table.rows[0] else FAINT
        error = 200 * (score.se or 0.0)
        axes.errorbar(100 * score.value, place, xerr=error, fmt="o", color=colour, capsize=3)
    chance = table.own["top1"].chance
    if chance is not None:
        axes.axvline(100 * chance, color=FAINT, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"top-1 accuracy on {table.split}, % (± two standard errors; dotted: chance)")
    axes.grid(axis="x", color=GRID)
    return figure
