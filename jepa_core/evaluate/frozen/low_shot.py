"""The evaluation `low_shot`: accuracy from a few labels a class, by nearest class mean, logistic and kNN.

The labelled samples are drawn from the training split several times with a seed; each draw is the same for
all rows, and smaller draws are parts of larger ones, so rows can be compared draw by draw. Scores are means
over the draws ± their standard deviation. Low-shot evaluation on frozen features as in MSN (Assran et al.
2022, arXiv 2204.07141).

What is unusual: features are standardised with mean and deviation of all training features, whose labels are
not looked at.

Axes: n training samples, m held-out samples, N labelled ones, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.frozen import few_labels
from jepa_core.evaluate.frozen.bank import Bank, BankRow, tasks_of, train_and_held_out
from jepa_core.evaluate.frozen.draws import draw_orders, first_of_each
from jepa_core.evaluate.score_tables import SHARE, EvaluationTable, MetricScore
from jepa_core.settings.base import EvaluationSettings

DEFAULT_SHOTS = (1, 5, 12, 50)
METHODS = {"class_mean": "nearest class mean", "logistic": "logistic regression", "knn": "nearest neighbours"}

Accuracies = dict[str, dict[str, list[float]]]
"""By method, then by number of labels, one for each draw."""


class LowShot:
    """Accuracy from n labels a class: nearest class mean, logistic, kNN; mean and deviation over seeded
    draws."""

    class Config(EvaluationSettings):
        """What is drawn."""

        shots: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
        """Labels a class; by default those of 1, 5, 12 and 50 that every class has."""
        share: float | None = Field(0.01, gt=0, lt=1)
        """Further a share of each class's training samples, at least one."""
        draws: int = Field(10, ge=2)
        """Times that samples are drawn."""
        neighbours: int = Field(10, ge=1)
        """k of kNN, or the number of labels a class where that is less."""
        l2: tuple[PositiveFloat, ...] = Field((1e-2, 1e-1, 1.0), min_length=1)
        """Strengths of the logistic regression to choose from."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each method, of each task. Raises UserError for more labels than a class has, without
        labels, and where the training split is scored."""
        return [table for task in tasks_of(context) for table in self._tables(context, task)]

    def _tables(self, context: EvaluationContext, task: str | None) -> list[EvaluationTable]:
        train, held_out = train_and_held_out(context, task)
        counts = self._counts(train)
        draws = [
            draw_orders(train.labels, len(train.classes), context.generator(f"low_shot {number}"))
            for number in range(self.config.draws)
        ]
        by_row: dict[str, Accuracies] = {}
        for row, judged in zip(train.rows, held_out.rows, strict=True):
            context.progress.begin(f"low-shot on {row.name}", len(draws))
            by_row[row.name] = self._row(context, row, judged, (train.labels, held_out.labels), draws, counts)
        chance = 1 / len(train.classes)
        return [
            context.table(
                {name: _scores(of_row[method], chance) for name, of_row in by_row.items()},
                count=len(held_out),
                samples=held_out.samples,
                task=", ".join(filter(None, (task, method))),
                note=self._note(method, train, counts),
            )
            for method in METHODS
        ]

    def _counts(self, train: Bank) -> dict[str, list[int]]:
        """The labels of each class by the name of the column. Raises UserError where a class has too few."""
        available = torch.bincount(train.labels, minlength=len(train.classes)).tolist()
        least = min(available)
        poorest = train.classes[available.index(least)]
        for shot in self.config.shots or ():
            if shot > least:
                raise UserError(
                    f"evaluations.low_shot.shots asks for {shot} labels a class; the class {poorest!r} has "
                    f"{least} training {train.samples}"
                )
        shots = self.config.shots or tuple(shot for shot in DEFAULT_SHOTS if shot <= least)
        if not shots:
            raise UserError(f"the class {poorest!r} has no training {train.samples}, so none can be drawn")
        counts = {f"n{shot}": [shot] * len(available) for shot in sorted(set(shots))}
        if self.config.share is not None:
            name = f"percent{100 * self.config.share:g}"
            counts[name] = [min(count, max(1, round(self.config.share * count))) for count in available]
        return counts

    def _row(
        self,
        context: EvaluationContext,
        row: BankRow,
        judged: BankRow,
        labels: tuple[Tensor, Tensor],
        draws: Sequence[Sequence[Tensor]],
        counts: Mapping[str, Sequence[int]],
    ) -> Accuracies:
        """The accuracies of a row; `labels` are those of the training and of the held-out samples."""
        mean, deviation = row.values.mean(0), row.values.std(0, correction=0).clamp(min=1e-6)
        queries = (judged.values - mean) / deviation
        accuracies: Accuracies = {method: {name: [] for name in counts} for method in METHODS}
        most = [max(of_class) for of_class in zip(*counts.values(), strict=True)]
        for number, orders in enumerate(draws):
            whole = first_of_each(orders, most)
            samples, seen = few_labels.restrict_to_span((row.values[whole] - mean) / deviation, queries)
            place = torch.full((len(labels[0]),), -1)
            place[whole] = torch.arange(len(whole))
            for name, of_class in counts.items():
                index = first_of_each(orders, of_class)
                train = samples[place[index]], labels[0][index]
                generator = context.generator(f"low_shot folds {number} {name}")
                for method, guesses in self._guesses(train, seen, of_class, generator).items():
                    accuracies[method][name].append(guesses.eq(labels[1]).double().mean().item())
            context.progress.advance(1)
        return accuracies

    def _guesses(
        self,
        train: tuple[Tensor, Tensor],
        queries: Tensor,
        of_class: Sequence[int],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The guesses int64 [m] of each method."""
        classes = len(of_class)
        neighbours = min(self.config.neighbours, *of_class)
        return {
            "class_mean": few_labels.class_means(train, queries, classes),
            "logistic": few_labels.logistic(train, queries, classes, self.config.l2, generator)[0],
            "knn": few_labels.neighbours(train, queries, classes, neighbours),
        }

    def _note(self, method: str, train: Bank, counts: Mapping[str, Sequence[int]]) -> str:
        shares = [of_class for name, of_class in counts.items() if name.startswith("percent")]
        drawn = "nN: N labels a class" + "".join(
            f"; {self.config.share:.3g} of train: {min(of_class)}"
            + (f" to {max(of_class)}" if max(of_class) > min(of_class) else "")
            for of_class in shares
        )
        how = {
            "class_mean": "Nothing is chosen.",
            "logistic": f"L2 of {', '.join(f'{l2:g}' for l2 in self.config.l2)} by stratified k-fold on the "
            f"labelled samples, k = min({few_labels.FOLDS}, n); {few_labels.FIXED_L2:g} at n = 1.",
            "knn": f"k = min({self.config.neighbours}, n), fixed; cosine.",
        }
        return (
            f"{METHODS[method].capitalize()} from a few of {len(train):,} labelled training {train.samples} "
            f"({drawn}), {self.config.draws} seeded draws, the same for all rows. {how[method]}"
        )


def _scores(by_count: Mapping[str, Sequence[float]], chance: float) -> dict[str, MetricScore]:
    """The mean over the draws and their standard deviation, of each number of labels."""
    make = partial(MetricScore, unit=SHARE, chance=chance)
    return {
        name: make(value=math.fsum(of_draws) / len(of_draws), sd=_deviation(of_draws))
        for name, of_draws in by_count.items()
    }


def _deviation(values: Sequence[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).std().item()
