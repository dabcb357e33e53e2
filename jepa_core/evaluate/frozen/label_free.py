"""The evaluation `label_free`: RankMe, α-ReQ, LiDAR and CLID of the features, which need no labels.

RankMe, α-ReQ and CLID are of the features of the scored split; LiDAR is of several random crops of each of
some images. What is unusual: none of the scores is compared across widths or numbers of samples, on which all
of them depend, so the note says both; the twin is the level without training.

Axes: n samples, B of them in a batch, q views of each, D width.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from jepa_core.evaluate.collapse import rankme
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.frozen.bank import (
    BankRow,
    bank_of,
    features_of,
    labelled_samples,
    read_split,
    row_maps,
    tasks_of,
)
from jepa_core.evaluate.frozen.label_free_scores import (
    alpha_req,
    alpha_window,
    cluster_learnability,
    intrinsic_dimension,
    lidar,
)
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import SHARE, EvaluationTable, MetricScore
from jepa_core.settings.base import EvaluationSettings


class LabelFree:
    """RankMe, α-ReQ, LiDAR and CLID: scores of features that need no labels."""

    class Config(EvaluationSettings):
        """On how many samples."""

        samples: int = Field(2000, ge=32)
        """Of the scored split, evenly spaced, for RankMe, α-ReQ and CLID."""
        lidar_images: int = Field(500, ge=2)
        """n of LiDAR, which is at most n - 1: more than the width are needed."""
        lidar_views: int = Field(20, ge=2)
        """q of LiDAR: random crops of each image."""
        crop_area: float = Field(0.3, gt=0, lt=1)
        """The least area of these crops, as a share of the view."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> EvaluationTable:
        """One table. LiDAR is not computed for views that are no images or clips."""
        task = tasks_of(context)[0]
        bank = bank_of(context, context.split, task)
        count = min(len(bank), self.config.samples)
        some = bank.take(torch.arange(count) * len(bank) // count)
        of_crops, images = self._lidar(context, task)
        scores = {
            row.name: self._row(context, row, of_crop)
            for row, of_crop in zip(some.rows, of_crops, strict=True)
        }
        return context.table(
            scores,
            count=count,
            samples=bank.samples,
            note=self._note(alpha_window(*some.rows[0].values.shape), count, images),
        )

    def _note(self, window: tuple[int, int], count: int, images: int) -> str:
        config, clusters = self.config, round(math.sqrt(count))
        sentences = (
            "No labels.",
            f"alpha_req: slope over the eigenvalues {window[0]} to {window[1]} of {count:,} samples,",
            f"good near 1. lidar: {images:,} images × {config.lidar_views} random crops of",
            f"{config.crop_area:.0%} to 100% of the area, at most min(width, {images - 1:,}).",
            f"clid: accuracy of 1-NN on {clusters} k-means clusters plus TwoNN dimension / width.",
            "All depend on width and number of samples: compare within one width and method only, and with a",
            "probe before believing them.",
        )
        return " ".join(sentences)

    def _row(self, context: EvaluationContext, row: BankRow, lidar_score: float) -> dict[str, MetricScore]:
        """The scores of a row, each plain number the better the higher but for α-ReQ's."""
        learnability = cluster_learnability(row.values, context.generator("label_free"))
        dimension = intrinsic_dimension(row.values)
        return {
            "rankme": MetricScore(value=rankme(row.values)),
            "alpha_req": MetricScore(value=alpha_req(row.values), better="lower"),
            "lidar": MetricScore(value=lidar_score),
            "clid": MetricScore(value=learnability + dimension / row.values.shape[1]),
            "cluster_learnability": MetricScore(value=learnability, unit=SHARE),
            "intrinsic_dimension": MetricScore(value=dimension),
        }

    def _lidar(self, context: EvaluationContext, task: str | None) -> tuple[list[float], int]:
        """(LiDAR of each row, number of images)."""
        maps = row_maps(context)
        total = len(labelled_samples(context, context.split, task))
        few = choose_samples(total, None, min(self.config.lidar_images, context.images or total))
        loader = read_split(context, context.split, task, few)
        parts: list[list[Tensor]] = [[] for _ in maps]
        generator = context.generator("label_free crops")
        context.progress.begin("crops for LiDAR", loader.images)
        for views, _ in loader:
            if views.dim() not in (4, 5):
                return [math.nan] * len(maps), 0
            crops = [
                random_crops(views, self.config.crop_area, generator).to(context.device)
                for _ in range(self.config.lidar_views)
            ]
            for feature_map, part in zip(maps, parts, strict=True):
                part.append(torch.stack([features_of(feature_map, crop) for crop in crops], 1))
            context.progress.advance(len(views))
        features = [torch.cat(part) for part in parts]
        return [lidar(values) for values in features], len(features[0])


def random_crops(views: Tensor, least_area: float, generator: Generator) -> Tensor:
    """One random crop of each of views [B, C, (T,) H, W], resized to their size, every second one mirrored.

    The area is uniform from `least_area` to 1 of the view's, the aspect the view's; the place is uniform.
    """
    shape = views.shape
    flat = views.flatten(1, -3)
    side = torch.empty(len(views)).uniform_(least_area, 1, generator=generator).sqrt()
    shift = (torch.rand(len(views), 2, generator=generator) * 2 - 1) * (1 - side)[:, None]
    mirror = torch.randint(2, (len(views),), generator=generator) * 2 - 1
    theta = torch.zeros(len(views), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * mirror, side, shift
    grid = F.affine_grid(theta, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view(shape)
