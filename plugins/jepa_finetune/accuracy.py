"""The evaluation `accuracy`: how often a classifier's first guess is the label, and of many classes its five.

The row `random twin` is the same network before any training: near chance, or the share of one class.

Axes: n samples, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.batches import describe_samples
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore, share_score
from jepa_finetune.variant import Classifier

FEW = 10
"""Classes up to which no `top5` is given."""


def accuracy(context: EvaluationContext) -> EvaluationTable | None:
    """Top-1 accuracy of the classifier's own head; None for other models, and data of other classes.

    Raises UserError where no sample has a label.
    """
    classes = len(context.samples().classes or ())
    if not isinstance(context.model, Classifier) or classes != context.model.config.classes:
        return None
    logits, labels, samples = classify(context)
    if not len(labels):
        raise UserError("no sample has a label")
    scores = {row: top_scores(values, labels) for row, values in logits.items()}
    return context.table(scores, count=len(labels), samples=samples, note=f"{classes:,} classes, own head.")


def classify(context: EvaluationContext) -> tuple[dict[str, Tensor], Tensor, str]:
    """(logits [n, C] by row, labels int64 [n], what the samples are) of the samples that have a label."""
    logits: dict[str, list[Tensor]] = {row: [] for row in context.models}
    labels, samples = [], "samples"
    for batch in context.batches():
        assert batch.labels is not None
        view = next(iter(batch.views.values()))
        samples, named = describe_samples(view), batch.labels >= 0
        labels.append(batch.labels[named].cpu())
        for row, model in context.models.items():
            logits[row].append(model.logits(view)[named].float().cpu())
    return {row: torch.cat(parts) for row, parts in logits.items()}, torch.cat(labels), samples


def top_scores(logits: Tensor, labels: Tensor) -> dict[str, MetricScore]:
    """`top1`, and `top5` of more than ten classes, of logits [n, C] and labels int64 [n]."""
    count = logits.shape[1]
    order = logits.topk(min(5, count)).indices == labels[:, None]
    ranks = (1, 5) if count > FEW else (1,)
    return {f"top{k}": share_score(order[:, :k].any(1).double().tolist(), k / count) for k in ranks}
