"""Evaluations that see the model, of several runs side by side.

What is unusual: as for probes, scores stand in one table only where they answer one question: the same
evaluation, split, data and number of samples. The best of a column follows its direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore
from jepa_core.report.comparison import MISSING, Cell, Row, Table
from jepa_core.report.configurations import Configuration
from jepa_core.report.intervals import estimate
from jepa_core.report.summary import RunSummary


@dataclass(eq=False)
class Question:
    """The tables of runs that answer one question, by run name."""

    first: EvaluationTable
    tables: dict[str, EvaluationTable] = field(default_factory=dict)

    def scores(self, configuration: Configuration, metric: str) -> list[MetricScore]:
        """The finite scores of a configuration's runs."""
        own = [self.tables[run.name].own[metric] for run in configuration.runs if run.name in self.tables]
        return [score for score in own if math.isfinite(score.value)]


def evaluation_comparisons(groups: Sequence[Configuration]) -> list[dict[str, Any]]:
    """A title, a table with recipes in rows, and a caption for each question that some run answers."""
    runs = [run for configuration in groups for run in configuration.runs]
    return [
        {
            "title": question.first.title,
            "table": _table(question, groups),
            "caption": _caption(question, groups),
        }
        for question in _questions(runs)
    ]


def _questions(runs: Sequence[RunSummary]) -> list[Question]:
    questions: dict[tuple[Any, ...], Question] = {}
    for run in runs:
        for table in run.evaluations:
            if table.rows and run.evaluation is not None:
                units = [(name, score.unit) for name, score in table.own.items()]
                key = (table.title, table.split, table.count, run.evaluation.data_hash, *units)
                questions.setdefault(key, Question(table)).tables.setdefault(run.name, table)
    return list(questions.values())


def _table(question: Question, groups: Sequence[Configuration]) -> Table:
    metrics = list(question.first.own)
    answering = [group for group in groups if any(run.name in question.tables for run in group.runs)]
    rows = [
        Row(group.name, group.style, [_score_cell(question.scores(group, metric)) for metric in metrics])
        for group in answering
    ]
    for number, metric in enumerate(metrics):
        _mark_best([row.cells[number] for row in rows], question.first.own[metric].better)
    return Table(["", *question.first.head()[1:]], [*rows, *_controls(question, metrics)])


def _controls(question: Question, metrics: Sequence[str]) -> list[Row]:
    """The twin and the controls, the mean over the runs that have them."""
    names = [row.name for row in question.first.rows[1:]]
    rows = []
    for name in names:
        of_runs = [row for table in question.tables.values() for row in table.rows if row.name == name]
        rows.append(
            Row(name, None, [_score_cell([row.scores[metric] for row in of_runs]) for metric in metrics])
        )
    return rows


def _score_cell(scores: Sequence[MetricScore]) -> Cell:
    """One run's score with its standard error, or the mean of several with half its 95 % interval."""
    scores = [score for score in scores if math.isfinite(score.value)]
    if not scores:
        return Cell(MISSING)
    first, result = scores[0], estimate([score.value for score in scores])
    if result.half is not None:
        spread, hint = (
            f"± {first.in_unit(result.half)}",
            f"mean of {result.count} runs; ± half a 95 % t interval",
        )
        return Cell(first.in_unit(result.mean), spread, hint, value=result.mean)
    value, _, error = first.text().partition(" ± ")
    hint = "one run; ± one standard error" if error else "one run"
    return Cell(value, f"± {error}" if error else "", hint, value=first.value)


def _mark_best(cells: Sequence[Cell], better: str) -> None:
    values = [cell.value for cell in cells if cell.value is not None]
    if len(set(values)) > 1:
        best = max(values) if better == "higher" else min(values)
        for cell in cells:
            cell.best = cell.value == best


def _caption(question: Question, groups: Sequence[Configuration]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    seeds = " Of several seeds the mean ± half its 95 % t interval." if several else ""
    return f"{question.first.caption()}{seeds}"
