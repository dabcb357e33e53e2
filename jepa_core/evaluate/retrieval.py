"""The evaluation `retrieval`: of a sample's view, is its other view the nearest of all samples' other views?

R@k is the share of samples whose counterpart is among the k nearest, in both directions; `r1` and `r5` are
the means of the two. Chance is k / n. The row `shuffled pairs` is the trained model with the counterparts
permuted: what it scores above chance is an error of the measurement.

Axes: n samples, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from jepa_core.evaluate.batches import first_sample
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.pair_protocols import PairEmbedder
from jepa_core.evaluate.pairs import Compare, comparison_of, cosine, embed_all, hits
from jepa_core.evaluate.score_tables import TRAINED, EvaluationTable, MetricScore, share_score

SHUFFLED = "shuffled pairs"
RANKS = (1, 5)


def retrieval(context: EvaluationContext) -> list[EvaluationTable] | None:
    """A table for each two views that the model embeds; None for a model without pairs, and samples of one
    view.

    Raises UserError where embeddings are not finite.
    """
    if not isinstance(context.model, PairEmbedder):
        return None
    sample = first_sample(context.samples())
    if sample is None or len(sample.views) < 2:
        return None
    embeddings = {
        row: embed_all(model, (batch.views for batch in context.batches()))
        for row, model in context.models.items()
    }
    compare = comparison_of(context.model)
    names = list(embeddings[TRAINED])
    several = len(names) > 2
    return [
        _table(context, embeddings, first, second, compare, several)
        for first, second in combinations(names, 2)
    ]


def _table(
    context: EvaluationContext,
    embeddings: Mapping[str, Mapping[str, Tensor]],
    first: str,
    second: str,
    compare: Compare,
    several: bool,
) -> EvaluationTable:
    count = len(embeddings[TRAINED][first])
    scores = {
        row: score_pairs(of_row[first], of_row[second], (first, second), compare)
        for row, of_row in embeddings.items()
    }
    order = torch.randperm(count, generator=context.generator("retrieval"))
    own = embeddings[TRAINED]
    scores[SHUFFLED] = score_pairs(own[first], own[second][order], (first, second), compare)
    return context.table(
        scores,
        count=count,
        samples="pairs",
        task=f"{first} and {second}" if several else None,
        note=f"R@k: the counterpart is among the k nearest of all {count:,}, {first} to {second} and back.",
    )


def score_pairs(
    first: Tensor, second: Tensor, names: tuple[str, str] = ("first", "second"), compare: Compare = cosine
) -> dict[str, MetricScore]:
    """R@1 and R@5 of pairs [n, E]: `r1` and `r5`, the means of both directions, then each direction.

    Row i of `first` belongs to row i of `second`. The standard error of a mean is that of the pairs' own
    means, as the two directions of a pair are not independent.
    """
    right = torch.arange(len(first))
    there = {k: hits(first, second, right, k, compare) for k in RANKS}
    back = {k: hits(second, first, right, k, compare) for k in RANKS}
    chance = {k: min(1.0, k / len(first)) for k in RANKS}
    both = {f"r{k}": share_score(((there[k] + back[k]) / 2).tolist(), chance[k]) for k in RANKS}
    forward = {f"{names[0]}_to_{names[1]}_r{k}": share_score(there[k].tolist(), chance[k]) for k in RANKS}
    backward = {f"{names[1]}_to_{names[0]}_r{k}": share_score(back[k].tolist(), chance[k]) for k in RANKS}
    return {**both, **forward, **backward}
