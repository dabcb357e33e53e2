"""The evaluation `words`: which word is it a picture of? Asked of seen and of unseen words, by names alone.

The words are the classes of the source, each embedded as the mean over `variant.prompts`. Pictures of words
that training saw are asked among all words; those of unseen words among all, and among the unseen ones. The
rows beside `trained` and the random twin: `shuffled words` (the names permuted), and two controls that see no
more than pixels: a ridge from the picture (averaged down to 16 × 16), or from its colour histogram, to the
embedding of its caption by the run's own text tower, fitted on the training pictures.

Axes: n pictures, C words, E width of the shared space, K features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.pair_protocols import ReadsPrompts
from jepa_core.evaluate.regression import fit_ridge
from jepa_core.evaluate.score_tables import EvaluationTable
from jepa_core.evaluate.zero_shot import embed_names, score_classes

SIDE, LEVELS = 16, 4
"""Of the pixels a ridge sees, and of a histogram's colours: levels of each of red, green, blue."""
FITTED_ON = 10_000
"""Training pictures that a ridge is fitted on."""


@runtime_checkable
class KnowsUnseen(Protocol):
    """Samples that know which of them have a class that training has not."""

    unseen: Tensor
    """bool [n]"""
    labels: Tensor
    """int64 [n]"""


def word_accuracy(context: EvaluationContext) -> list[EvaluationTable] | None:
    """A table for seen words and two for unseen ones; None for other models and sources."""
    samples = context.samples()
    if not isinstance(context.model, ReadsPrompts) or not isinstance(samples, KnowsUnseen):
        return None
    if not samples.classes or context.split == "train":
        return None
    pictures, labels, unseen = embed_pictures(context)
    words = {name: embed_names(context, model, samples.classes) for name, model in context.models.items()}
    order = torch.randperm(len(samples.classes), generator=context.generator("words"))
    queries = {**pictures, "shuffled words": pictures["trained"]}
    names = {**dict.fromkeys(pictures, words["trained"]), **words, "shuffled words": words["trained"][order]}
    known = sorted({int(label) for label in labels[unseen]})
    questions = {
        "seen words": (~unseen, list(range(len(samples.classes)))),
        "unseen words, among all": (unseen, list(range(len(samples.classes)))),
        "unseen words, among themselves": (unseen, known),
    }
    tables = []
    for task, (rows, among) in questions.items():
        if not rows.any() or len(among) < 2:
            continue
        place = torch.full((len(samples.classes),), -1)
        place[among] = torch.arange(len(among))
        scores = {}
        for row, values in queries.items():
            right = place[labels[rows]]
            scores[row] = score_classes(values[rows], names[row][among], right)
        note = f"Each picture is one of {len(among):,} words, known by name alone."
        tables.append(context.table(scores, count=int(rows.sum()), samples="pictures", task=task, note=note))
    return tables


def embed_pictures(context: EvaluationContext) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(embeddings [n, E] by row, labels int64 [n], unseen bool [n]) of the split's pictures."""
    by_row: dict[str, list[Tensor]] = {name: [] for name in context.models}
    plain: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in context.batches():
        view = next(iter(batch.views.values()))
        for name, model in context.models.items():
            by_row[name].append(model.embed({"image": view})["image"].float().cpu())
        plain.append(view.cpu())
        assert batch.labels is not None
        labels.append(batch.labels.cpu())
    every = torch.cat(labels)
    samples: Any = context.samples()
    pictures = {name: torch.cat(parts) for name, parts in by_row.items()}
    for name, features in controls(context).items():
        pictures[name] = features(torch.cat(plain))
    return pictures, every, torch.isin(every, samples.labels[samples.unseen])


def controls(context: EvaluationContext) -> Mapping[str, Any]:
    """Linear maps from pixels and from colours to the caption's embedding, by name."""
    pixels: list[Tensor] = []
    texts: list[Tensor] = []
    for images, caption in _training_pairs(context):
        pixels.append(images)
        texts.append(caption)
    views, targets = torch.cat(pixels), torch.cat(texts).double()
    kinds = {"pixels, ridge": shrunk_pixels, "colours, ridge": colour_histogram}
    fitted = {name: fit_ridge(features(views), targets) for name, features in kinds.items()}
    return {name: lambda view, name=name: fitted[name](kinds[name](view)).float() for name in kinds}


def _training_pairs(context: EvaluationContext) -> Iterator[tuple[Tensor, Tensor]]:
    count = 0
    for batch in context.batches("train"):
        view = next(iter(batch.views.values()))
        caption = context.model.embed({context.model.text_view: batch.views[context.model.text_view]})
        yield view.cpu(), caption[context.model.text_view].cpu()
        count += len(view)
        if count >= FITTED_ON:
            return


def shrunk_pixels(views: Tensor) -> Tensor:
    """float64 [n, K]: images [n, 3, H, W] averaged down to at most SIDE pixels a side."""
    side = min(SIDE, *views.shape[-2:])
    return F.adaptive_avg_pool2d(views, side).flatten(1).double()


def colour_histogram(views: Tensor) -> Tensor:
    """float64 [n, LEVELS³]: the shares of an image's pixels of each colour.

    Levels are between the least and the greatest value of each channel of all images.
    """
    low, high = views.amin((0, 2, 3), keepdim=True), views.amax((0, 2, 3), keepdim=True)
    levels = ((views - low) / (high - low).clamp(min=1e-6) * LEVELS).long().clamp(max=LEVELS - 1)
    code = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
    return F.one_hot(code.flatten(1), LEVELS**3).double().mean(1)
