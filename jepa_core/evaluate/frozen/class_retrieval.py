"""The evaluation `class_retrieval`: are the nearest samples of the same class?

R@k is the share of queries with a sample of their own class among the k nearest by cosine; mAP is the mean
over queries of the average precision, the mean of the precision at the rank of each sample of the query's
class (as in Musgrave et al. 2020, arXiv 2003.08505, §2). A query is no candidate of its own. Nothing is
fitted or chosen.

What is unusual: chance levels are exact. They are the expected scores of a random order of the candidates,
for each query by the number of its class.

Axes: q queries, n candidates, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.frozen.bank import Bank, labelled_bank, tasks_of
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore, share_score
from jepa_core.settings.base import EvaluationSettings

RANKS = (1, 5, 10)
_CHUNK = 256


class ClassRetrieval:
    """Retrieval by class with L2-normalised features: R@1, R@5, R@10 and mAP, the query left out."""

    class Config(EvaluationSettings):
        """What is searched."""

        in_train: bool = False
        """Candidates are the training samples; by default the other samples of the scored split."""
        images: int = Field(10_000, ge=2)
        """Queries at most, and candidates, evenly spaced: every query is compared with every candidate."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each task. Raises UserError without labels, and where no class has two samples."""
        return [self._table(context, task) for task in tasks_of(context)]

    def _table(self, context: EvaluationContext, task: str | None) -> EvaluationTable:
        queries = _space(labelled_bank(context, context.split, task), self.config.images)
        candidates = queries
        if self.config.in_train and context.split != "train":
            candidates = _space(labelled_bank(context, "train", task), self.config.images)
        scores: dict[str, Mapping[str, MetricScore]] = {}
        for query, candidate in zip(queries.rows, candidates.rows, strict=True):
            context.progress.begin(f"retrieval with {query.name}", None)
            scores[query.name] = score_retrieval(
                (query.values, queries.labels),
                (candidate.values, candidates.labels),
                same=candidates is queries,
            )
        where = "the query left out" if candidates is queries else "of the train split"
        return context.table(
            scores,
            count=len(queries),
            samples=queries.samples,
            task=task,
            note=f"R@k and mAP by class among {len(candidates):,} candidates, {where}; cosine of features as "
            "they are. Nothing is fitted or chosen. Queries whose class has no candidate are not counted.",
        )


def _space(bank: Bank, most: int) -> Bank:
    """At most so many of the samples, evenly spaced."""
    if len(bank) <= most:
        return bank
    return bank.take(torch.arange(most) * len(bank) // most)


def score_retrieval(
    queries: tuple[Tensor, Tensor], candidates: tuple[Tensor, Tensor], *, same: bool
) -> dict[str, MetricScore]:
    """`map`, `r1`, `r5`, `r10` with standard errors and chance levels, from (features, labels) of both.

    With `same` the candidates are the queries, in this order, and none is compared with itself. Raises
    UserError where no query has a candidate of its class.
    """
    relevant = torch.bincount(candidates[1], minlength=int(queries[1].max()) + 1)[queries[1]] - int(same)
    if not (has_any := relevant > 0).any():
        raise UserError("no sample has another one of its class to be found")
    precisions, ranks = [], []
    unit = F.normalize(candidates[0].float(), dim=1)
    rows = has_any.nonzero()[:, 0]
    for part in rows.split(_CHUNK):
        similarity = F.normalize(queries[0][part].float(), dim=1) @ unit.T
        if same:
            similarity[torch.arange(len(part)), part] = -torch.inf
        order = similarity.argsort(dim=1, descending=True, stable=True)
        hits = candidates[1][order].eq(queries[1][part, None])
        if same:
            hits = hits[:, :-1]  # the query itself, whose similarity is the least
        precisions.append(average_precision(hits))
        ranks.append(hits.float().argmax(1))
    count, relevant = len(unit) - int(same), relevant[rows]
    first = torch.cat(ranks)
    chance = {k: _mean_over(relevant, partial(hit_chance, count=count, k=k)) for k in RANKS}
    return {
        "map": share_score(
            torch.cat(precisions).tolist(), _mean_over(relevant, partial(random_precision, count=count))
        ),
        **{f"r{k}": share_score((first < k).double().tolist(), chance[k]) for k in RANKS},
    }


def average_precision(hits: Tensor) -> Tensor:
    """The mean precision at the ranks of the hits, float64 [q], from hits bool [q, n] in the order of rank.

    Each query has at least one.
    """
    so_far = hits.double().cumsum(1)
    precision = so_far / torch.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(1) / hits.sum(1)


def random_precision(relevant: int, count: int) -> float:
    """The expected average precision of a random order of `count` candidates, so many of them relevant.

    The mean over the ranks r of a relevant one of (1 + (r - 1)(R - 1)/(n - 1)) / r.
    """
    harmonic = _harmonic(count)
    others = (relevant - 1) / (count - 1) if count > 1 else 0.0
    return harmonic / count + others * (1 - harmonic / count)


def hit_chance(relevant: int, count: int, k: int) -> float:
    """The chance that one of `k` candidates drawn of `count` is one of the relevant ones."""
    return 1 - math.prod(max(0, count - relevant - i) / (count - i) for i in range(min(k, count)))


def _harmonic(count: int) -> float:
    return math.fsum(1 / i for i in range(1, count + 1))


def _mean_over(numbers: Tensor, function: Callable[[int], float]) -> float:
    """The mean of a function over whole numbers, called once for each different one."""
    values, counts = numbers.unique(return_counts=True)
    weighted = (function(v) * c for v, c in zip(values.tolist(), counts.tolist(), strict=True))
    return math.fsum(weighted) / len(numbers)
