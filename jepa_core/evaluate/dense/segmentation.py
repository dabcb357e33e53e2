"""The evaluation `segmentation`: the class of each patch, and of each pixel, read off frozen patch features.

A multinomial logistic regression from the feature of a patch to the class that most of its pixels have,
solved as the linear probe is; for pixels its logits are interpolated bilinearly between patch centres.
Accuracy and mean IoU are those of one confusion matrix over the split.

Axes: B images, S tokens that a head is fitted on, N tokens of the grid, D width, C classes, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.dense.confusion import Confusion
from jepa_core.evaluate.dense.reading import (
    dense_batches,
    maps_of_kind,
    to_patches,
    token_grid,
    upsample,
)
from jepa_core.evaluate.linear_head import LinearHead, fit_linear_head
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore
from jepa_core.settings.base import EvaluationSettings
from jepa_core.types.sample import Field

EVALUATION = "segmentation"
PLACE, COMMONEST = "position only", "commonest class"
LOGITS_AT_ONCE = 1 << 25


@dataclass
class ClassFit:
    """What the training images leave of one map: heads by row, and how often each class is at each place."""

    name: str
    grid: tuple[int, int]
    classes: int
    ignore: int
    heads: dict[str, LinearHead] = field(default_factory=dict)
    counts: Tensor = field(default_factory=lambda: torch.zeros(0))
    """[N, C]: training patches of each class at each place."""
    images: int = 0
    drawn: int = 0
    """Tokens that the heads were fitted on."""

    def labels(self, values: Tensor) -> Tensor:
        """The classes of pixels [B, H, W], -1 where they are ignored. Raises UserError for a class beyond."""
        ignored = (values < 0) | (values == self.ignore)
        beyond = values[~ignored & (values >= self.classes)]
        if len(beyond):
            raise UserError(
                f"targets.{self.name} holds the class {int(beyond.max())}; expected 0 to {self.classes - 1}, "
                f"or {self.ignore} or a negative number for none"
            )
        return values.masked_fill(ignored, -1)

    def logits(self, row: str, tokens: Tensor) -> Tensor:
        """[B, N, C] of tokens [B, N, D]."""
        flat: Tensor = self.heads[row](tokens.flatten(0, 1))
        return flat.view(*tokens.shape[:2], -1)

    def place_logits(self) -> Tensor:
        """[N, C]: the logarithms of the classes' shares at each place, with one of each added."""
        return (self.counts + 1).log().float()


class Segmentation:
    """Classes of patches and pixels read off frozen features, for each map of classes among the targets."""

    class Config(EvaluationSettings):
        """What is counted, and how the heads are fitted."""

        ignore: int = Setting(255, ge=0)
        """A class whose pixels are not counted; those of negative classes are not either."""
        tokens: int = Setting(100_000, ge=2)
        """Training tokens that a head is fitted on, a seeded draw where there are more."""
        l2: tuple[PositiveFloat, ...] = Setting((1e-4, 1e-3, 1e-2, 1e-1), min_length=1)
        """Strengths to choose from; the best on a tenth of the training tokens is taken."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each map; of several those that name their classes.

        Rows: the trained encoder, its twin, raw patches with their places, the place alone, the commonest
        class. Raises UserError without such a map, for classes beyond those of its field, and for an encoder
        whose tokens are no grid of rows and columns.
        """
        maps = class_maps(context)
        fits = (fit_classes(self.config, context, name, count) for name, count in maps.items())
        return [class_table(context, fit, fit.name if len(maps) > 1 else None) for fit in fits]


def class_maps(context: EvaluationContext) -> dict[str, int]:
    """The number of classes of each map that is segmented. Raises UserError where no field says one."""
    fields = maps_of_kind(context, EVALUATION, numbers=False)
    named = {name: field for name, field in fields.items() if field.names} or fields
    counts = {name: count for name, field in named.items() if (count := _class_count(field))}
    if not counts:
        raise UserError(
            "segmentation takes a map whose field says its classes, by vocabulary=… or names=…; none of "
            f"these does: {', '.join(fields)}"
        )
    return counts


def _class_count(field: Field) -> int:
    return len(field.names) or field.vocabulary or 0


def majority(labels: Tensor, classes: int) -> Tensor:
    """int64 [B, N]: the commonest class of patches [B, N, pixels], the first of equals; -1 where all are."""
    patches = labels.flatten(0, 1)
    cells = torch.arange(len(patches), device=labels.device)[:, None] * classes + patches
    counts = torch.bincount(cells[patches >= 0], minlength=len(patches) * classes).view(-1, classes)
    commonest = counts.argmax(1).masked_fill(counts.sum(1) == 0, -1)
    return commonest.view(labels.shape[:2])


def fit_classes(config: Segmentation.Config, context: EvaluationContext, name: str, classes: int) -> ClassFit:
    """One pass over the training images, and a solved head for each row."""
    fit = ClassFit(name, token_grid(context, EVALUATION), classes, config.ignore)
    places = fit.grid[0] * fit.grid[1]
    fit.counts = torch.zeros(places, classes, dtype=torch.int64)
    total = len(choose_samples(len(context.samples("train")), None, context.images)) * places
    draw, features, truths = context.generator("segmentation: tokens"), dict[str, list[Tensor]](), []
    for batch in dense_batches(context, EVALUATION, "train"):
        truth = majority(to_patches(fit.labels(batch.maps[name]), fit.grid), classes).cpu()
        for place, column in enumerate(truth.T):
            fit.counts[place] += torch.bincount(column[column >= 0], minlength=classes)
        chosen = (truth >= 0) & (torch.rand(truth.shape, generator=draw) < config.tokens / total)
        truths.append(truth[chosen])
        for row, tokens in batch.tokens.items():
            features.setdefault(row, []).append(tokens[chosen.to(tokens.device)])
        fit.images += batch.images
    labels = torch.cat(truths)
    fit.drawn = len(labels)
    if fit.drawn < 2:
        raise UserError(f"targets.{name} of the training split has no class: all of its pixels are ignored")
    for row, parts in features.items():
        context.progress.begin(f"segmentation: classes of {row}", None)
        tokens = torch.cat(parts)
        fit.heads[row] = fit_linear_head((tokens, labels.to(tokens.device)), classes, strengths=config.l2)
    return fit


def class_table(context: EvaluationContext, fit: ClassFit, task: str | None = None) -> EvaluationTable:
    """The table of one map: the heads of `fit` on the split that is scored."""
    matrices: dict[str, tuple[Confusion, Confusion]] = {}
    images = 0
    for batch in dense_batches(context, EVALUATION):
        labels = fit.labels(batch.maps[fit.name])
        patches = majority(to_patches(labels, fit.grid), fit.classes)
        images += batch.images
        for row, logits in _logits(fit, batch.tokens, batch.images).items():
            of_row = matrices.setdefault(row, (Confusion(fit.classes), Confusion(fit.classes)))
            of_row[0].add(logits.argmax(-1).to(patches.device), patches)
            of_row[1].add(pixel_classes(logits, fit.grid, labels).flatten(1), labels.flatten(1))
    if not matrices[COMMONEST][1].counts.sum():
        raise UserError(
            f"targets.{fit.name} of the {context.split} split has no class: all of its pixels are ignored"
        )
    base = matrices[COMMONEST]
    scores = {row: _scores(pair, base) for row, pair in matrices.items()}
    return context.table(
        scores, count=images, samples="images", task=task, note=" ".join(_notes(context, fit))
    )


def _logits(fit: ClassFit, tokens: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """[B, N, C] by row, with the guesses that need no image."""
    place = fit.place_logits()
    common = (fit.counts.sum(0) + 1).log().float().expand_as(place)
    return {
        **{row: fit.logits(row, values) for row, values in tokens.items()},
        PLACE: place.expand(images, -1, -1),
        COMMONEST: common.expand(images, -1, -1),
    }


def pixel_classes(logits: Tensor, grid: tuple[int, int], labels: Tensor) -> Tensor:
    """int64 [B, H, W], the size of `labels`: the class of the interpolated logits, some images at a time."""
    size = labels.shape[-2], labels.shape[-1]
    at_once = max(1, LOGITS_AT_ONCE // (logits.shape[-1] * size[0] * size[1]))
    parts = [upsample(part, grid, size).argmax(1) for part in logits.split(at_once)]
    return torch.cat(parts).to(labels.device)


def _scores(pair: tuple[Confusion, Confusion], base: tuple[Confusion, Confusion]) -> dict[str, MetricScore]:
    chances = [matrix.accuracy().value for matrix in base]
    patches, pixels = pair
    return {
        "miou": pixels.mean_iou(),
        "accuracy": pixels.accuracy(chances[1]),
        "miou_patches": patches.mean_iou(),
        "accuracy_patches": patches.accuracy(chances[0]),
    }


def _notes(context: EvaluationContext, fit: ClassFit) -> Iterator[str]:
    same = ", the scored ones, so no measure of new ones" if context.split == "train" else ""
    yield (
        f"Logistic regression from each patch to its commonest class of {fit.classes}, on {fit.drawn:,} "
        f"tokens of {fit.images:,} training images{same}; logits bilinear between patches."
    )
    yield "mIoU: of one confusion matrix over the split, the mean over the classes that are there or guessed."
