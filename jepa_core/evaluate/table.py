"""The probe table: what was learned, beside what an untrained network and the pixels give.

What is unusual: a table is complete or it is not made. Every row is scored on the same samples, the first row
is compared with the random-initialised twin in percentage points, and the caption names role, pooling, split,
number of samples, chance level and the share of the largest class, so that a number cannot be quoted without
them. A score that could not be computed is NaN, with the reason beside it; JSON has null for it, which reads
back as NaN.

Axes: n samples of a split, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from jepa_core.errors import unknown
from jepa_core.evaluate.score_tables import NOT_COMPUTED, EvaluationTable

if TYPE_CHECKING:
    from rich.table import Table

Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; null in JSON is NaN."""


class Row(BaseModel):
    """One kind of feature and its scores."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    width: int
    scores: dict[str, dict[str, Score]]
    """For each probe, what it returned, as shares of 1: first its headline (`top1`), its standard error
    under the same name with `_se`, and more. `chance` is the probe's own chance level."""
    rankme: Score
    feature_std: Score
    predictions: dict[str, Score] = {}
    """Of samples without labels: `retrieval`, the share of predictions nearest to their own sample's target,
    and its `chance` level. Empty for what predicts nothing."""
    failures: dict[str, str] = {}
    """Why scores are NaN: the reason by probe; by `features` for RankMe and spread."""
    notes: dict[str, str] = {}
    """What has to be known of scores, by probe: that a fit was cut to its budget of time."""


class EvalResult(BaseModel):
    """A probe table. `model_dump_json()` and `model_validate_json()` write and read it."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[Row, ...]
    baseline: str | None
    """The row that the others are compared with."""
    split: str
    train_images: int
    held_out_images: int
    classes: int
    majority: Score
    """Share of the largest class among the held-out images."""
    step: int | None = None
    """Optimizer steps of the checkpoint that was judged; None where it was no run's."""
    task: str | None = None
    """Which labels the probes guess, where the data can be labelled in several ways."""
    others: tuple[EvalResult, ...] = ()
    """The same rows on the other tasks."""
    role: str | None = None
    """The encoder that was judged, `target` or `context`; None in tables of earlier versions."""
    samples: str | None = None
    """What the samples are, in the plural: images, clips."""
    guessable: int | None = None
    """Classes that occur among the training samples."""
    of_images: tuple[int, int] | None = None
    """Training and held-out samples that there are, where only some of them were drawn."""
    left_out: tuple[str, ...] = ()
    """Scored on the training split: the probes that give no sample its own answer."""
    data: str | None = None
    """Source and origin of the samples, for people."""
    data_hash: str | None = None
    """Of the held-out samples, their names and labels."""
    train_hash: str | None = None
    """Of the training samples."""
    probe_settings: dict[str, dict[str, Any]] = {}
    """The settings of each probe."""
    time: str | None = None
    """When the table was made, ISO 8601."""
    transfer: str | None = None
    """Which data the run was trained on, where these are others."""
    evaluations: tuple[EvaluationTable, ...] = ()
    """What was measured with the model itself, beside its features."""

    @model_validator(mode="after")
    def _is_whole(self) -> EvalResult:
        """Every row has the probes of the first, each with a score, and the baseline is a row."""
        if not self.rows:
            raise ValueError("a probe table without rows")
        if self.baseline is not None and self.baseline not in [row.name for row in self.rows]:
            raise ValueError(f"the baseline {self.baseline!r} is no row of the table")
        probes = set(self.rows[0].scores)
        for row in self.rows:
            if set(row.scores) != probes or not all(row.scores.values()):
                raise ValueError(f"row {row.name!r} lacks scores that the first row has")
        return self

    @property
    def tables(self) -> tuple[EvalResult, ...]:
        """A table for each task, this one first."""
        return (self, *self.others)

    @property
    def unit(self) -> str:
        """What the samples are, in the plural."""
        return self.samples or ("samples" if self.task else "images")

    @property
    def baseline_row(self) -> Row | None:
        """The row that the others are compared with."""
        return self.row(self.baseline) if self.baseline else None

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess among the classes that occur in training; 0 without classes."""
        choices = self.guessable or self.classes
        return 1 / choices if choices else 0.0

    def chance_of(self, probe: str) -> float:
        """The chance level that a probe gives for its own question, else that of guessing a class."""
        return self.rows[0].scores[probe].get("chance", self.chance)

    def row(self, name: str) -> Row:
        """The row of that name. Raises UserError where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise unknown("row", name, [row.name for row in self.rows])

    def gain(self, name: str, probe: str) -> float | None:
        """Percentage points of a probe's headline over the baseline row; None for the baseline itself.

        NaN where one of the two could not be computed.
        """
        base = self.baseline_row
        if base is None or name == base.name:
            return None
        key = headline(base, probe)
        return 100 * (self.row(name).scores[probe].get(key, math.nan) - base.scores[probe][key])

    def caption(self) -> str:
        """What the rows are, and what the numbers stand on."""
        rows = "; ".join(f"{row.name}: {row.description}" for row in self.rows)
        task = f"Task {self.task}. " if self.task else ""
        probes = list(self.rows[0].scores)
        moved = f" Transfer: the run was trained on {self.transfer}." if self.transfer else ""
        if not probes:
            scored = f"Scored on {self._sample_count(1)} of the {self.split} split; no probes."
            return f"{task}{rows}. {scored}{self._retrieval_words()}{moved}"
        gain = f" (in brackets: points over the {self.baseline})" if self.baseline else ""
        return (
            f"{task}{rows}. {self._basis(probes)}{moved} "
            f"Scores in % ± one standard error{gain}; "
            f"{self._chances(probes)}, largest class {self.majority:.1%}."
            f"{self._parameters()}{self._reasons()}"
        )

    def _sample_count(self, part: int) -> str:
        """`500 of 10,000 images`; of the training samples (0) or the held-out ones (1)."""
        count = (self.train_images, self.held_out_images)[part]
        total = f" of {self.of_images[part]:,}" if self.of_images and self.of_images[part] > count else ""
        return f"{count:,}{total}{' training' if part == 0 else ''} {self.unit}"

    def _basis(self, probes: Sequence[str]) -> str:
        draw = " (a seeded draw)" if self.of_images else ""
        if self.split != "train":
            return (
                f"Scored on {self._sample_count(1)} of the {self.split} split, "
                f"probes fitted on {self._sample_count(0)}{draw}."
            )
        biased = [probe for probe in probes if probe not in self.left_out]
        notes = [f"{', '.join(self.left_out)}: each is left out of its own answer"] if self.left_out else []
        if biased:
            notes.append(f"{', '.join(biased)}: fitted on these labels, so no measure of new ones")
        fitted = f"{self._sample_count(0)} that the probes were fitted on{draw}"
        return f"Scored on the {fitted}; {'; '.join(notes)}."

    def _chances(self, probes: Sequence[str]) -> str:
        levels = {probe: f"{self.chance_of(probe):.1%}" for probe in probes}
        if len(set(levels.values())) == 1:
            return f"chance {next(iter(levels.values()))}"
        return "chance " + ", ".join(f"{level} ({probe})" for probe, level in levels.items())

    def _parameters(self) -> str:
        """The size of probes that say it, for some outweigh a small encoder."""
        counts = {probe: scores.get("parameters", math.nan) for probe, scores in self.rows[0].scores.items()}
        texts = [f"{probe} {count:,.0f}" for probe, count in counts.items() if math.isfinite(count)]
        return f" Learned parameters of the probe: {', '.join(texts)}." if texts else ""

    def _reasons(self) -> str:
        texts = sorted({f"{row.name}: {why}" for row in self.rows for why in row.failures.values()})
        notes = [f"{probe} of {row.name}: {note}" for row in self.rows for probe, note in row.notes.items()]
        parts = [f"{NOT_COMPUTED.capitalize()}, {text}" for text in texts] + ["; ".join(notes)] * bool(notes)
        return "".join(f" {part}." for part in parts)

    def cells(self) -> list[list[str]]:
        """The table as text: a head line, then one line a row; of each probe its headline."""
        probes = list(self.rows[0].scores)
        titles = [f"{probe} {headline(self.rows[0], probe)}" for probe in probes]
        head = ["features", "width", *titles, "RankMe", "std", *self.prediction_scores]
        return [head, *(self._line(row, probes) for row in self.rows)]

    @property
    def prediction_scores(self) -> tuple[str, ...]:
        """The columns for scores of predictions: one where a row has any, else none."""
        return ("retrieval",) if any(row.predictions for row in self.rows) else ()

    def _retrieval_words(self) -> str:
        chances = [row.predictions["chance"] for row in self.rows if "chance" in row.predictions]
        if not chances:
            return ""
        return (
            f" retrieval: predictions, in %, that are nearest to the target of their own among "
            f"{round(1 / chances[0])} {self.unit} (chance {chances[0]:.1%})."
        )

    def _numbers(self) -> list[bool]:
        """Which columns are plain numbers, set to the right; scores begin with theirs and stay left."""
        more = [True] * len(self.prediction_scores)
        return [False, True, *[False] * len(self.rows[0].scores), True, True, *more]

    def _line(self, row: Row, probes: Sequence[str]) -> list[str]:
        scores = [self._score(row, probe) for probe in probes]
        return [
            row.name,
            str(row.width),
            *scores,
            _number(row.rankme, ".1f"),
            _number(row.feature_std, ".2f"),
            *(percentage(row, score) for score in self.prediction_scores),
        ]

    def _score(self, row: Row, probe: str) -> str:
        gain, key, scores = self.gain(row.name, probe), headline(row, probe), row.scores[probe]
        if math.isnan(scores[key]):
            return NOT_COMPUTED
        error = f" ± {100 * scores[f'{key}_se']:.1f}" if f"{key}_se" in scores else ""
        more = "" if gain is None or math.isnan(gain) else f" ({gain:+z.1f})"
        return f"{100 * scores[key]:4.1f}{error}{more}"

    def markdown(self) -> str:
        """The table and its caption in Markdown."""
        head, *lines = self.cells()
        rule = ["---:" if right else "---" for right in self._numbers()]
        rows = [" | ".join(line) for line in (head, rule, *lines)]
        return "".join(f"| {row} |\n" for row in rows) + f"\n{self.caption()}\n"

    def text(self) -> str:
        """The table and its caption in plain text, columns aligned."""
        cells = self.cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        shape = list(zip(widths, self._numbers(), strict=True))
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, (width, right) in zip(line, shape, strict=True)
            )
            for line in cells
        ]
        return "\n".join(line.rstrip() for line in lines) + f"\n{self.caption()}\n"

    def table(self) -> Table:
        """The table for a rich console."""
        from rich import box
        from rich.table import Table

        head, *lines = self.cells()
        style: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "caption_justify": "left"}
        table = Table(title=self.task, title_justify="left", caption=self.caption(), **style)
        for title, right in zip(head, self._numbers(), strict=True):
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for i, line in enumerate(lines):
            table.add_row(*line, style="bold" if i == 0 else None)
        return table


def headline(row: Row, probe: str) -> str:
    """The name of a probe's headline, its first score: `top1`."""
    return next(iter(row.scores[probe]))


def percentage(row: Row, score: str) -> str:
    """A score of a row's predictions in %; empty where it has none."""
    return _number(100 * row.predictions[score], ".1f") if score in row.predictions else ""


def _number(value: float, form: str) -> str:
    return NOT_COMPUTED if math.isnan(value) else format(value, form)
