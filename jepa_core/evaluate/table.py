"""The probe table: what was learned, beside what an untrained network and the pixels give.

What is unusual: the table is only made whole. Every row sees the same images, the first row is compared
with the random-initialised twin in percentage points, and the caption names role, pooling, split, number
of images, chance level and the share of the largest class, so that a number cannot be quoted without them.

Axes: n images of a split, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from jepa_core.errors import unknown
from jepa_core.evaluate.collapse import feature_std, rankme
from jepa_core.evaluate.features import Features, extract
from jepa_core.protocols import FeatureMap, Probe, TokenProbe
from jepa_core.runtime.progress import NoProgress, Progress

if TYPE_CHECKING:
    from rich.table import Table

Loader = Iterable[tuple[Tensor, Tensor]]
"""Yields (views [B, ...], labels [B]), in order."""


class Row(BaseModel):
    """One kind of feature and its scores."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    width: int
    scores: dict[str, dict[str, float]]
    """For each probe, what it returned, as shares of 1: first its headline (`top1`), its standard error
    under the same name with `_se`, and more."""
    rankme: float
    feature_std: float


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
    majority: float
    """Share of the largest class among the held-out images."""
    step: int | None = None
    """Optimizer steps of the checkpoint that was judged; None where it was no run's."""
    task: str | None = None
    """Which labels the probes guess, where the data can be labelled in several ways."""
    others: tuple[EvalResult, ...] = ()
    """The same rows on the other tasks."""

    @property
    def tables(self) -> tuple[EvalResult, ...]:
        """A table for each task, this one first."""
        return (self, *self.others)

    @property
    def unit(self) -> str:
        """What the rows of a task's table have seen, in the plural."""
        return "samples" if self.task else "images"

    @property
    def baseline_row(self) -> Row | None:
        """The row that the others are compared with."""
        return self.row(self.baseline) if self.baseline else None

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess, 1 / classes."""
        return 1 / self.classes if self.classes else 0.0

    def row(self, name: str) -> Row:
        """The row of that name. Raises UserError where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise unknown("row", name, [row.name for row in self.rows])

    def gain(self, name: str, probe: str) -> float | None:
        """Percentage points of a probe's headline over the baseline row; None for the baseline itself."""
        base = self.baseline_row
        if base is None or name == base.name:
            return None
        key = headline(base, probe)
        return 100 * (self.row(name).scores[probe][key] - base.scores[probe][key])

    def caption(self) -> str:
        """What the rows are, and what the numbers stand on."""
        rows = "; ".join(f"{row.name}: {row.description}" for row in self.rows)
        task = f"Task {self.task}. " if self.task else ""
        counted = f"{task}{rows}. Scored on {self.held_out_images:,} {self.unit} of the {self.split} split"
        if not self.rows[0].scores:
            return f"{counted}; no probes."
        gain = f" (in brackets: points over the {self.baseline})" if self.baseline else ""
        return (
            f"{counted}, probes fitted on {self.train_images:,} training {self.unit}. "
            f"Scores in % ± one standard error{gain}; "
            f"chance {self.chance:.1%}, largest class {self.majority:.1%}."
        )

    def cells(self) -> list[list[str]]:
        """The table as text: a head line, then one line a row."""
        probes = list(self.rows[0].scores)
        titles = [f"{probe} {headline(self.rows[0], probe)}" for probe in probes]
        head = ["features", "width", *titles, "RankMe", "std"]
        return [head, *(self._line(row, probes) for row in self.rows)]

    def _numbers(self) -> list[bool]:
        """Which columns are plain numbers, set to the right; scores begin with theirs and stay left."""
        return [False, True, *[False] * len(self.rows[0].scores), True, True]

    def _line(self, row: Row, probes: Sequence[str]) -> list[str]:
        scores = [self._score(row, probe) for probe in probes]
        return [
            row.name,
            str(row.width),
            *scores,
            f"{row.rankme:.1f}",
            f"{row.feature_std:.2f}",
        ]

    def _score(self, row: Row, probe: str) -> str:
        gain, key, scores = self.gain(row.name, probe), headline(row, probe), row.scores[probe]
        error = f" ± {100 * scores[f'{key}_se']:.1f}" if f"{key}_se" in scores else ""
        return f"{100 * scores[key]:4.1f}{error}" + ("" if gain is None else f" ({gain:+z.1f})")

    def markdown(self) -> str:
        """The table and its caption in Markdown."""
        head, *lines = self.cells()
        rule = ["---:" if right else "---" for right in self._numbers()]
        return (
            "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
            + f"\n\n{self.caption()}\n"
        )

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
        looks: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "caption_justify": "left"}
        table = Table(title=self.task, title_justify="left", caption=self.caption(), **looks)
        for title, right in zip(head, self._numbers(), strict=True):
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for i, line in enumerate(lines):
            table.add_row(*line, style="bold" if i == 0 else None)
        return table


def headline(row: Row, probe: str) -> str:
    """The name of a probe's first score: `top1`."""
    return next(iter(row.scores[probe]))


def evaluate(
    maps: Sequence[FeatureMap],
    train: Loader,
    held_out: Loader,
    probes: Mapping[str, Probe | TokenProbe],
    *,
    classes: int,
    split: str,
    baseline: str | None = "random twin",
    images: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """The probe table of `maps`, in their order: each probe's scores, RankMe and spread.

    `train` and `held_out` yield (images, labels); `images` are their sizes, for the progress bar.
    `baseline` names the map that the others are compared with, or None. RankMe and spread are of the
    held-out features. Without probes no labels are needed, and no training features are taken.
    Raises UserError for an unknown baseline, unlabelled images, or features no probe can use.
    """
    names = [m.name for m in maps]
    if baseline is not None and baseline not in names:
        raise unknown("baseline", baseline, names)
    progress = progress or NoProgress()
    totals: tuple[int | None, int | None] = images or (None, None)
    progress.begin(f"features of the {split} split", totals[1])
    tokens = any(isinstance(probe, TokenProbe) for probe in probes.values())
    judged = extract(maps, held_out, device, dtype, progress, tokens)
    fitted = judged
    if probes:
        progress.begin("features of the training split", totals[0])
        fitted = extract(maps, train, device, dtype, progress, tokens)
    rows = []
    for feature_map, fit, judge in zip(maps, fitted, judged, strict=True):
        progress.begin(f"probes on {feature_map.name}", None)
        rows.append(_row(feature_map, fit, judge, probes, classes, device))
    return EvalResult(
        rows=tuple(rows),
        baseline=baseline,
        split=split,
        train_images=len(fitted[0].labels) if probes else 0,
        held_out_images=len(judged[0].labels),
        classes=classes,
        majority=_majority(judged[0].labels) if probes else 0.0,
    )


def _row(
    feature_map: FeatureMap,
    fit: Features,
    judge: Features,
    probes: Mapping[str, Probe | TokenProbe],
    classes: int,
    device: torch.device | str,
) -> Row:
    return Row(
        name=feature_map.name,
        description=feature_map.description,
        width=judge.values.shape[1],
        scores={name: _scores(probe, fit, judge, classes, device) for name, probe in probes.items()},
        rankme=rankme(judge.values),
        feature_std=feature_std(judge.values),
    )


def _scores(
    probe: Probe | TokenProbe, fit: Features, judge: Features, classes: int, device: torch.device | str
) -> dict[str, float]:
    on_tokens = isinstance(probe, TokenProbe)
    train, held_out = (
        ((part.tokens if on_tokens else part.values).to(device), part.labels.to(device))  # type: ignore[union-attr]
        for part in (fit, judge)
    )
    return dict((probe.on_tokens if isinstance(probe, TokenProbe) else probe)(train, held_out, classes))


def _majority(labels: Tensor) -> float:
    return labels.unique(return_counts=True)[1].max().item() / len(labels)
