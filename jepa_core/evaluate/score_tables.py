"""The tables of evaluations that see the model: retrieval, zero-shot, regression, a plugin's own.

What is unusual: a number never stands alone. Each score says its unit, its chance level, which direction is
better and its standard error, and each table what was counted (images, pairs, windows) and on which split;
the first row is the run's own, the others are its twin and controls. A score that could not be computed is
NaN, which JSON writes as null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

if TYPE_CHECKING:
    from rich.table import Table

TRAINED, TWIN = "trained", "random twin"
"""Names of the rows of a run's model and of the same model freshly initialised."""

SHARE = "share"
"""The unit of scores that are shares of 1, such as accuracies; shown in percent."""

NOT_COMPUTED = "not computed"

_Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class MetricScore(BaseModel):
    """One number, and what it takes to read it."""

    model_config = ConfigDict(frozen=True)

    value: _Number
    se: float | None = None
    """One standard error, in the unit; None where it is not known."""
    sd: float | None = None
    """Of a mean over repeated draws their standard deviation, in the unit; it is shown where `se` is None."""
    unit: str = ""
    """`share` of 1, `m/s`, `pixels`, …; "" for a plain number."""
    chance: float | None = None
    """What guessing without looking gives, in the unit; None where there is no such level."""
    better: Literal["higher", "lower"] = "higher"

    def text(self) -> str:
        """`41.2 ± 0.9` of a share, in percent; of another unit three digits.
        After ± stands the standard error, or without one the deviation over draws."""
        if not math.isfinite(self.value):
            return NOT_COMPUTED
        spread = self.sd if self.se is None else self.se
        if spread is None or not math.isfinite(spread):
            return self.in_unit(self.value)
        in_tenths = self.unit == SHARE and abs(self.value) >= 0.001
        error = f"{100 * spread:.1f}" if in_tenths else self.in_unit(spread)
        return f"{self.in_unit(self.value)} ± {error}"

    def in_unit(self, value: float) -> str:
        """A number in this score's unit, without the unit."""
        if self.unit != SHARE:
            return f"{value:.3g}"
        return f"{100 * value:.1f}" if abs(value) >= 0.001 or value == 0 else f"{100 * value:.2g}"


class EvaluationRow(BaseModel):
    """What one model, or one control, scores."""

    model_config = ConfigDict(frozen=True)

    name: str
    """`trained`, `random twin`, `shuffled pairs`, …"""
    scores: dict[str, MetricScore]
    """By metric, the headline first."""


class EvaluationTable(BaseModel):
    """The scores of one evaluation on one task, the run's own row first."""

    model_config = ConfigDict(frozen=True)

    name: str = ""
    """Of the evaluation; by default the name that its plugin gives it."""
    task: str | None = None
    """Which of several questions the evaluation asks; None where there is one."""
    split: str
    count: int
    """Of samples that were scored."""
    samples: str = "samples"
    """What they are, in the plural: images, pairs, windows."""
    rows: tuple[EvaluationRow, ...]
    note: str = ""
    """A sentence for the caption."""
    transfer: str | None = None
    """Which data the run was trained on, where these are others."""
    error: str = ""
    """Why there are no rows."""

    @model_validator(mode="after")
    def _is_whole(self) -> EvaluationTable:
        """Rows have names of their own and the metrics of the first row."""
        if bool(self.rows) == bool(self.error):
            raise ValueError("an evaluation table has rows, or says in `error` why it has none")
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"two rows of one name: {', '.join(names)}")
        for row in self.rows:
            if not row.scores or list(row.scores) != list(self.rows[0].scores):
                raise ValueError(
                    f"row {row.name!r} has the scores {', '.join(row.scores) or 'none'}; expected those of "
                    f"the first row: {', '.join(self.rows[0].scores)}"
                )
        return self

    @property
    def title(self) -> str:
        """`retrieval`, `regression: speed`."""
        return f"{self.name}: {self.task}" if self.task else self.name

    @property
    def own(self) -> Mapping[str, MetricScore]:
        """The scores of the run itself by metric; empty where the evaluation failed."""
        return self.rows[0].scores if self.rows else {}

    def caption(self) -> str:
        """What was counted, what chance gives, which direction is better."""
        if self.error:
            return f"Left out: {self.error}."
        where = f"Scored on {self.count:,} {self.samples} of the {self.split} split."
        moved = f"Transfer: the run was trained on {self.transfer}." if self.transfer else ""
        return " ".join(filter(None, (where, moved, self.note, self._how_to_read())))

    def _how_to_read(self) -> str:
        scores = self.own
        levels = [
            f"{score.in_unit(score.chance)}{' %' if score.unit == SHARE else _blank(score.unit)} ({name})"
            for name, score in scores.items()
            if score.chance is not None
        ]
        if len(levels) > 1 and len({level.partition(" (")[0] for level in levels}) == 1:
            levels = [levels[0].partition(" (")[0]]
        lower = [name for name, score in scores.items() if score.better == "lower"]
        every = [score for row in self.rows for score in row.scores.values()]
        parts = [
            "± one standard error" if any(score.se is not None for score in every) else "",
            "± one standard deviation over draws"
            if any(score.se is None and score.sd is not None for score in every)
            else "",
            f"chance {', '.join(levels)}" if levels else "",
            f"lower is better: {', '.join(lower)}" if lower else "",
        ]
        text = "; ".join(filter(None, parts))
        return f"{text[:1].upper()}{text[1:]}." if text else ""

    def head(self) -> list[str]:
        """Titles of the columns, with units."""
        titles = []
        for name, score in self.own.items():
            unit = "%" if score.unit == SHARE else score.unit
            titles.append(f"{name}, {unit}" if unit else name)
        return [self.title, *titles]

    def cells(self) -> list[list[str]]:
        """The table as text: a head line, then one line a row."""
        return [
            self.head(),
            *([row.name, *(score.text() for score in row.scores.values())] for row in self.rows),
        ]

    def text(self) -> str:
        """The table and its caption in plain text, columns aligned."""
        cells = self.cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        return "\n".join(lines) + f"\n{self.caption()}\n"

    def table(self) -> Table:
        """The table for a rich console, without its caption, which is often wider."""
        from rich import box
        from rich.table import Table

        head, *lines = self.cells()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in head:
            table.add_column(title, no_wrap=True)
        for i, line in enumerate(lines):
            table.add_row(*line, style="bold" if i == 0 else None)
        return table


def make_rows(scores: Mapping[str, Mapping[str, MetricScore]]) -> tuple[EvaluationRow, ...]:
    """Rows from scores by row and metric."""
    return tuple(EvaluationRow(name=name, scores=dict(of_row)) for name, of_row in scores.items())


def share_score(hits: Sequence[float], chance: float) -> MetricScore:
    """The mean of hits in 0 … 1, one a sample and at least one, as a share with its standard error."""
    count = len(hits)
    mean = math.fsum(hits) / count
    variance = math.fsum((hit - mean) ** 2 for hit in hits) / count
    return MetricScore(value=mean, se=math.sqrt(variance / count), unit=SHARE, chance=chance)


def _blank(unit: str) -> str:
    return f" {unit}" if unit else ""
