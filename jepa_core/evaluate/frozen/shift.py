"""The evaluation `shift`: a linear head fitted on clean training features, scored on corrupted held-out
images.

Each column is the mean accuracy over the five severities of one corruption (`corruptions.py`), after the
accuracy on the same images as they are. Heads and their strength see clean training images only.

Axes: m held-out images, B of them in a batch, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.frozen.bank import (
    features_of,
    labelled_bank,
    labelled_samples,
    read_split,
    row_maps,
    tasks_of,
    view_shape,
)
from jepa_core.evaluate.frozen.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from jepa_core.evaluate.frozen.layers import describe_cut
from jepa_core.evaluate.linear_head import LinearHead, fit_linear_head
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import EvaluationTable, share_score
from jepa_core.protocols import FeatureMap
from jepa_core.settings.base import EvaluationSettings


class Shift:
    """Accuracy of a linear head, fitted on clean images, on images with noise, blur, less contrast, more
    brightness and JPEG artefacts.
    """

    class Config(EvaluationSettings):
        """How the head is fitted, and how many images are corrupted."""

        images: int = Field(2000, ge=2)
        """Held-out images that are corrupted, a seeded draw; each in 25 ways."""
        l2: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1), min_length=1)
        """Strengths to choose from, on a tenth of the training images."""
        budget: float = Field(20.0, gt=0)
        """Seconds that the fits on one kind of features may take, by a measured prediction."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each task. Raises UserError for views that are no colour images, without labels, and
        where the training split is scored."""
        shape = view_shape(context)
        if len(shape) != 3 or shape[0] != 3:
            raise UserError(f"shift corrupts images of three channels; the encoder reads {list(shape)}")
        if context.split == "train":
            raise UserError("it is fitted on the train split; score it on another one (--split test or val)")
        return [self._table(context, task) for task in tasks_of(context)]

    def _table(self, context: EvaluationContext, task: str | None) -> EvaluationTable:
        train = labelled_bank(context, "train", task)
        heads = []
        for row in train.rows:
            context.progress.begin(f"head on {row.name}", None)
            heads.append(
                fit_linear_head(
                    (row.values, train.labels),
                    len(train.classes),
                    strengths=self.config.l2,
                    budget=self.config.budget,
                )
            )
        maps = row_maps(context)
        right = self._judge(context, task, maps, heads)
        chance = 1 / len(train.classes)
        scores = {
            feature_map.name: {
                column: share_score(of_row.tolist(), chance) for column, of_row in right[number].items()
            }
            for number, feature_map in enumerate(maps)
        }
        return context.table(
            scores,
            count=len(right[0]["clean"]),
            samples=train.samples,
            task=task,
            note=f"Linear head on the features of {len(train):,} clean training images, L2 chosen on a "
            "tenth of them. Each corruption: mean over 5 severities, made on the encoder's input; mean: of "
            "the five corruptions."
            + describe_cut(
                [m.name for m, head in zip(maps, heads, strict=True) if head.was_cut],
                "shift",
                self.config.budget,
            ),
        )

    def _judge(
        self,
        context: EvaluationContext,
        task: str | None,
        maps: Sequence[FeatureMap],
        heads: Sequence[LinearHead],
    ) -> list[dict[str, Tensor]]:
        """Of each map, by column, the share of right guesses float64 [m] over the severities of each
        image."""
        total = len(labelled_samples(context, context.split, task))
        most = min(self.config.images, context.images or total)
        loader = read_split(context, context.split, task, choose_samples(total, None, most))
        generator = context.generator("shift")
        mean, std = (
            torch.tensor(colour, device=context.device).view(1, 3, 1, 1)
            for colour in (context.recipe.transform.mean, context.recipe.transform.std)
        )
        right: list[dict[str, list[Tensor]]] = [{name: [] for name in ("clean", *CORRUPTIONS)} for _ in maps]
        context.progress.begin("corrupted images", loader.images)
        for views, labels in loader:
            named = labels >= 0
            pixels = views[named].to(context.device) * std + mean
            for name in ("clean", *CORRUPTIONS):
                sets = [pixels] if name == "clean" else corrupt_all(pixels, name, generator)
                for number, (feature_map, head) in enumerate(zip(maps, heads, strict=True)):
                    hits = [
                        head.guess(features_of(feature_map, (images - mean) / std)).eq(labels[named]).double()
                        for images in sets
                    ]
                    right[number][name].append(torch.stack(hits).mean(0))
            context.progress.advance(len(views))
        by_row = [{name: torch.cat(parts) for name, parts in of_row.items()} for of_row in right]
        return [
            {**of_row, "mean": torch.stack([of_row[name] for name in CORRUPTIONS]).mean(0)}
            for of_row in by_row
        ]


def corrupt_all(images: Tensor, kind: str, generator: Generator) -> list[Tensor]:
    """The images [B, 3, H, W] in 0 to 1 at every severity of one corruption."""
    return [corrupt(images, kind, severity, generator) for severity in range(1, SEVERITIES + 1)]
