"""What fine-tuning gave, beside the same network from random weights and the frozen encoder, in one table.

Every row is scored on the same samples. The probe's rows are those of the fine-tuned run's own evaluation:
its encoder before the first step (`initial weights`), and the random twin's, both frozen, with a linear probe
fitted on the same labels.

Axes: none; scores are shares of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jepa_core.errors import UserError
from jepa_core.evaluate.evaluations import latest_table
from jepa_core.evaluate.run import evaluate_run
from jepa_core.evaluate.score_tables import SHARE, EvaluationTable, MetricScore, make_rows
from jepa_core.evaluate.table import EvalResult, headline
from jepa_core.runs.status import read_status
from jepa_core.runtime.progress import Progress

FINETUNED, SCRATCH = "fine-tuned", "same network from random weights"
FROZEN = {
    "initial weights": "linear probe, frozen encoder",
    "random twin": "linear probe, random frozen encoder",
    "raw pixels": "linear probe, pixels",
}
"""Rows of the run's probe table, and their names here."""


def evaluate(folder: Path, split: str, progress: Progress, *, probes: bool) -> EvalResult:
    """The run's evaluation on a split, made where there is none of its last step; with or without probes."""
    made = latest_table(folder, split, step=read_status(folder).step)
    whole = made is not None and made.of_images is None and _own(made) is not None
    if made is not None and whole and (made.rows[0].scores or not probes):
        return made
    overrides = () if probes else ("probes.linear=false",)
    result = evaluate_run(folder, [], split, progress=progress, overrides=overrides, evaluations=["accuracy"])
    _accuracy(result)
    return result


def compare(finetuned: EvalResult, scratch: EvalResult | None, words: str) -> EvaluationTable:
    """The table: fine-tuned, from scratch, linear probes of frozen features. `words` say which labels."""
    own = _accuracy(finetuned)
    scores: dict[str, Mapping[str, MetricScore]] = {FINETUNED: _top1(own)}
    if scratch is not None:
        scores[SCRATCH] = _top1(_accuracy(scratch))
    for row in finetuned.rows:
        if row.name in FROZEN and "linear" in row.scores:
            values, key = row.scores["linear"], headline(row, "linear")
            score = MetricScore(
                value=values[key], se=values.get(f"{key}_se"), unit=SHARE, chance=own.own["top1"].chance
            )
            scores[FROZEN[row.name]] = {"top1": score}
    note = f"Trained with {words}: {finetuned.train_images:,} {finetuned.unit}."
    return EvaluationTable(
        name="fine-tuning",
        split=own.split,
        count=own.count,
        samples=own.samples,
        rows=make_rows(scores),
        note=note,
    )


def _own(result: EvalResult) -> EvaluationTable | None:
    tables = [table for table in result.evaluations if table.name == "accuracy" and table.rows]
    return tables[0] if tables else None


def _accuracy(result: EvalResult) -> EvaluationTable:
    """The evaluation `accuracy`. Raises UserError where it failed, saying why."""
    if table := _own(result):
        return table
    failed = [table.error for table in result.evaluations if table.name == "accuracy"]
    raise UserError(f"the accuracy was not computed: {failed[0] if failed else 'no evaluation'}")


def _top1(table: EvaluationTable) -> Mapping[str, MetricScore]:
    return {"top1": table.own["top1"]}
