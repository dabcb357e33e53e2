"""The evaluation `zero_shot`: classes are guessed from their names, with no example of any.

Each class is embedded as the mean over prompts (`a photo of a {}`), as Radford et al. 2021 (arXiv 2103.00020,
section 3.1.4) do, and a sample gets the class whose embedding is nearest. Chance is 1 / C. The row `shuffled
names` is the trained model with the names permuted among the classes.

Axes: n samples, C classes, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate.batches import describe_samples
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.pair_protocols import PairEmbedder, ReadsPrompts
from jepa_core.evaluate.pairs import Compare, comparison_of, cosine, embed_all, hits
from jepa_core.evaluate.score_tables import TRAINED, EvaluationTable, MetricScore, share_score
from jepa_core.types.batch import Batch

SHUFFLED = "shuffled names"
FEW = 10
"""Classes up to which no `top5` is given."""


def zero_shot(context: EvaluationContext) -> EvaluationTable | None:
    """Accuracy by the names of the classes; None for a model that reads no prompts, and without classes.

    Raises UserError where no sample has a label, and where embeddings are not finite.
    """
    model = context.model
    if not (isinstance(model, PairEmbedder) and isinstance(model, ReadsPrompts)):
        return None
    classes = context.samples().classes
    if not classes or len(classes) < 2:
        return None
    labels, samples = _read_labels(context)
    named = labels >= 0
    if not named.any():
        raise UserError("no sample has a label")
    pictures = {row: _embed_samples(context, one)[named] for row, one in context.models.items()}
    names = {row: embed_names(context, one, classes) for row, one in context.models.items()}
    compare, right = comparison_of(model), labels[named]
    scores = {row: score_classes(pictures[row], names[row], right, compare) for row in context.models}
    shuffled = names[TRAINED][_derange(len(classes), context)]
    scores[SHUFFLED] = score_classes(pictures[TRAINED], shuffled, right, compare)
    return context.table(
        scores,
        count=int(named.sum()),
        samples=samples,
        note=f"{len(classes):,} classes by their names as {', '.join(map(repr, model.prompts[:3]))}"
        f"{' and more prompts' if len(model.prompts) > 3 else ''}.",
    )


def _read_labels(context: EvaluationContext) -> tuple[Tensor, str]:
    """(labels int64 [n], what the samples are)."""
    labels, samples = [], "samples"
    for batch in context.batches():
        samples = describe_samples(next(iter(batch.views.values())))
        labels.append(torch.full((batch.batch_size,), -1) if batch.labels is None else batch.labels.cpu())
    return torch.cat(labels), samples


def score_classes(
    samples: Tensor, classes: Tensor, labels: Tensor, compare: Compare = cosine
) -> dict[str, MetricScore]:
    """`top1`, and `top5` of more than ten classes: samples [n, E], classes [C, E], labels int64 [n]."""
    count = len(classes)
    ranks = (1, 5) if count > FEW else (1,)
    return {
        f"top{k}": share_score(hits(samples, classes, labels, k, compare).tolist(), k / count) for k in ranks
    }


def _embed_samples(context: EvaluationContext, model: Any) -> Tensor:
    """[n, E] of the first view that has an embedding and is no text."""
    embeddings = embed_all(model, (_without_text(batch, model.text_view) for batch in context.batches()))
    seen = [values for name, values in embeddings.items() if name != model.text_view]
    if not seen:
        raise UserError("the model gives no embedding of the views of these samples")
    return seen[0]


def _without_text(batch: Batch, text_view: str) -> dict[str, Any]:
    return {name: view for name, view in batch.views.items() if name != text_view}


def embed_names(context: EvaluationContext, model: Any, classes: Sequence[str]) -> Tensor:
    """[C, E]: of each class the normalised mean over its normalised prompts."""
    means = []
    for prompt in model.prompts:
        texts = [prompt.replace("{}", str(name)) for name in classes]
        batches = _text_batches(context, model, texts)
        means.append(F.normalize(embed_all(model, batches)[model.text_view], dim=-1))
    return F.normalize(torch.stack(means).mean(0), dim=-1)


def _text_batches(context: EvaluationContext, model: Any, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Views of the texts alone, by the run's transforms where it has some."""
    transforms = context.transforms
    for start in range(0, len(texts), context.batch_size):
        part = texts[start : start + context.batch_size]
        if transforms is None:
            yield {model.text_view: list(part)}
            continue
        views = transforms.transform_values({f"views.{model.text_view}": part})["views"]
        yield {name: view.to(context.device) for name, view in views.items()}


def _derange(count: int, context: EvaluationContext) -> Tensor:
    """A seeded order [C] in which no class has its own place: a rotation of a shuffle."""
    shuffle = torch.randperm(count, generator=context.generator("zero_shot"))
    order = torch.empty_like(shuffle)
    order[shuffle] = shuffle.roll(1)
    return order
