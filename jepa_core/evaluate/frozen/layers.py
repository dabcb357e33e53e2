"""The evaluation `layers`: which layers are read, and how, as the I-JEPA paper does it.

Linear classification from {mean of the last block, concatenated means of the last four blocks} × {plain,
batch norm}: the four heads of I-JEPA's transfer results (Assran et al. 2023, arXiv 2301.08243, App. A.2),
whose best is what the paper's tables have.

What is unusual: the heads are solved, not trained, and the head is chosen on a part of the training split,
never on the samples that are scored. `batch norm` is without affine and with the statistics of the training
split, so it is a standardisation; `plain` divides all features by one number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, PositiveFloat
from torch import Tensor

from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.frozen.bank import Bank, BankRow, tasks_of, train_and_held_out
from jepa_core.evaluate.linear_head import LinearHead, fit_linear_head
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore, share_score
from jepa_core.settings.base import EvaluationSettings

HEADS = {
    "last": ("last block", False),
    "last_bn": ("last block, batch norm", True),
    "last4": ("last 4 blocks", False),
    "last4_bn": ("last 4 blocks, batch norm", True),
}
"""(what it is, whether features are standardised) of each head, by the name of its column."""


class Layers:
    """Linear heads on the last block and on the last four, each plain and with batch norm; the best of them
    by a part of train.
    """

    class Config(EvaluationSettings):
        """Settings of the heads."""

        l2: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1), min_length=1)
        """Strengths to choose from."""
        chosen_on: float = Field(0.1, gt=0, lt=1)
        """Share of the training samples that is kept out of the fit to choose strength and head."""
        max_iterations: int = Field(100, ge=1)
        """L-BFGS iterations for each fit, at most."""
        budget: float = Field(20.0, gt=0)
        """Seconds that the fits of one head of one row may take, by a measured prediction; what could take
        longer is solved less exactly."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each task. Raises UserError without labels, and where the training split is scored."""
        return [self._table(context, task) for task in tasks_of(context)]

    def _table(self, context: EvaluationContext, task: str | None) -> EvaluationTable:
        train, held_out = train_and_held_out(context, task)
        scores: dict[str, dict[str, MetricScore]] = {}
        chosen: dict[str, str] = {}
        cut: list[str] = []
        for row, judged in zip(train.rows, held_out.rows, strict=True):
            context.progress.begin(f"heads on {row.name}", None)
            heads = self._fit(row, train)
            best = choose_head(heads)
            chosen[row.name] = f"{row.name}: {HEADS[best][0]}" if row.blocks is not None else ""
            cut += [row.name] if any(head.was_cut for head in heads.values()) else []
            of_heads = _score_heads(heads, judged, held_out)
            scores[row.name] = {"chosen": of_heads[best], **of_heads}
        return context.table(
            scores,
            count=len(held_out),
            samples=held_out.samples,
            task=task,
            note=self._note(len(train), train.samples, [text for text in chosen.values() if text])
            + describe_cut(cut, "layers", self.config.budget),
        )

    def _fit(self, row: BankRow, train: Bank) -> dict[str, LinearHead]:
        """The heads by name; a row without blocks has the heads of its features in both places."""
        heads: dict[str, LinearHead] = {}
        for name, (_, standardise) in HEADS.items():
            features = _features_of(name, row)
            alike = name.replace("last4", "last")
            if features is row.values and alike in heads:
                heads[name] = heads[alike]
                continue
            heads[name] = fit_linear_head(
                (features, train.labels),
                len(train.classes),
                strengths=self.config.l2,
                chosen_on=self.config.chosen_on,
                max_iterations=self.config.max_iterations,
                budget=self.config.budget,
                standardise=standardise,
            )
        return heads

    def _note(self, count: int, samples: str, chosen: Sequence[str]) -> str:
        return (
            f"Linear heads fitted on {count:,} training {samples}; L2 and head chosen on "
            f"{self.config.chosen_on:.0%} of them. `chosen` is the head with the best score there "
            f"({'; '.join(chosen)}). bn: batch norm; last4: concatenated means of the last four blocks, of "
            "rows without blocks the same as last."
        )


def describe_cut(rows: Sequence[str], evaluation: str, budget: float) -> str:
    """A sentence for the note of a table some of whose fits would have taken longer; empty without any."""
    if not rows:
        return ""
    return (
        f" Solved less exactly, as the fits would have taken over {budget:g} s "
        f"(evaluations.{evaluation}.budget): {', '.join(rows)}."
    )


def _features_of(head: str, row: BankRow) -> Tensor:
    return row.blocks if head.startswith("last4") and row.blocks is not None else row.values


def choose_head(heads: Mapping[str, LinearHead]) -> str:
    """The head that is most accurate on the part of train that chose its strength; the first of equals.

    One whose strength was not chosen, for want of time, comes after the others.
    """
    return max(heads, key=lambda name: -1.0 if (a := heads[name].chosen_accuracy) is None else a)


def _score_heads(heads: Mapping[str, LinearHead], row: BankRow, held_out: Bank) -> dict[str, MetricScore]:
    chance = 1 / len(held_out.classes)
    return {
        name: share_score(head.guess(_features_of(name, row)).eq(held_out.labels).double().tolist(), chance)
        for name, head in heads.items()
    }
