"""The evaluation `depth`: a ridge from the feature of each patch to the mean logarithm of its depth.

The ridge has an offset of its own at each place, as a floor is near below and far above in every picture: a
head without is judged by how well features tell their place, which can be most of what varies.

What is unusual: the head is solved, not trained, in one pass over the training images (`moments`), so there
is no learning rate, and the number of images costs no memory. Every row is compared with the mean depth map
of the training images, which needs no look at the image: a plain RMSE flatters them all.

Axes: B images, N tokens of the grid, D width, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.dense.depth_scores import DepthErrors, MeanMaps, score_rows, valid_pixels
from jepa_core.evaluate.dense.moments import PlacedMoments, PlacedRidge, fit_placed
from jepa_core.evaluate.dense.reading import (
    DenseBatch,
    dense_batches,
    maps_of_kind,
    to_patches,
    token_grid,
    upsample,
)
from jepa_core.evaluate.regression import CHOSEN_ON
from jepa_core.evaluate.score_tables import EvaluationTable

EVALUATION = "depth"
PLACE, MEAN_MAP = "position only", "mean map"

Grid2 = tuple[int, int]
"""Rows and columns of tokens."""


@dataclass
class DepthFit:
    """What the training images leave of one map: heads by row, the mean maps, and what was counted."""

    name: str
    grid: Grid2
    heads: dict[str, PlacedRidge] = field(default_factory=dict)
    means: MeanMaps | None = None
    images: int = 0
    pixels: int = 0
    holes: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    """Of the log-depths of the training patches; guesses are limited to them."""

    def count(self, batch: DenseBatch) -> tuple[Tensor, Tensor]:
        """(log-depths of the patches [B, N], which are known): counted, and added to the mean maps."""
        values = batch.maps[self.name]
        known = valid_pixels(values, self.name)
        target, patch_known = log_patches(values, known, self.grid)
        if self.means is None:
            self.means = MeanMaps.empty(values.shape[1:], target.shape[1])
        self.means.add(values, known, target, patch_known)
        self.images += batch.images
        self.pixels += known.numel()
        self.holes += int((~known).sum())
        if patch_known.any():
            low, high = target[patch_known].aminmax()
            self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        return target, patch_known

    def check(self) -> None:
        """Raises UserError where no training image has a depth."""
        if self.pixels == self.holes:
            raise UserError(
                f"targets.{self.name} of the training split holds no depth: all {self.pixels:,} pixels are "
                "holes (0, NaN or infinite)"
            )

    def depths(self, row: str, batch: DenseBatch) -> tuple[Tensor, Tensor]:
        """The depths of patches [B, N] and of pixels [B, H, W] that a row's head reads off its tokens."""
        return self.around_mean(self.heads[row](batch.tokens[row]).float(), batch)

    def around_mean(self, residual: Tensor, batch: DenseBatch) -> tuple[Tensor, Tensor]:
        """The depths of patches and pixels, of how far log-depths of patches [B, N] are from their means.

        Between patches this is interpolated bilinearly, and added to the mean log-depth of each pixel.
        """
        assert self.means is not None
        device, size = residual.device, (batch.views.shape[-2], batch.views.shape[-1])
        patches = self.means.log_patches().to(device) + residual
        pixels = self.means.log_pixels().to(device) + upsample(residual[..., None], self.grid, size)[:, 0]
        return patches.clamp(self.low, self.high).exp(), pixels.clamp(self.low, self.high).exp()


def depth(context: EvaluationContext) -> list[EvaluationTable]:
    """Depth read off frozen patch features, for each map of decimal numbers among the samples' targets.

    Rows: the trained encoder, its twin, raw patches with their places, the place alone, the mean map. Raises
    UserError without such a map, without a depth in it, for negative depths, and for an encoder whose tokens
    are no grid of rows and columns.
    """
    fields = maps_of_kind(context, EVALUATION, numbers=True)
    return [
        depth_table(context, fit_depth(context, name), field.units, name if len(fields) > 1 else None)
        for name, field in fields.items()
    ]


def fit_depth(context: EvaluationContext, name: str) -> DepthFit:
    """One pass over the training images: a ridge for each row, its strength chosen on a tenth of them."""
    fit = DepthFit(name, token_grid(context, EVALUATION))
    parts: dict[tuple[str, bool], PlacedMoments] = {}
    draw = context.generator("depth: strength")
    for batch in dense_batches(context, EVALUATION, "train"):
        target, known = fit.count(batch)
        judged = torch.rand(batch.images, generator=draw) < CHOSEN_ON
        for row, tokens in batch.tokens.items():
            for key in ((row, False), (row, True)):
                chosen = known & (judged == key[1])[:, None].to(known.device)
                moments = PlacedMoments.of(tokens, target, chosen)
                parts[key] = parts[key] + moments if key in parts else moments
    fit.check()
    _check_parts(fit, parts)
    for row in {row: None for row, _ in parts}:
        fit.heads[row] = fit_placed(parts[row, False], parts[row, True])
    return fit


def _check_parts(fit: DepthFit, parts: Mapping[tuple[str, bool], PlacedMoments]) -> None:
    if min(moments.total.count for moments in parts.values()) < 1:
        raise UserError(
            f"depth chooses its ridge on a tenth of the training images; the {fit.images} that there are do "
            "not suffice"
        )


def log_patches(depth: Tensor, known: Tensor, grid: Grid2) -> tuple[Tensor, Tensor]:
    """([B, N]: mean log-depth of the known pixels of each patch, which patches have any)."""
    logs = to_patches(torch.where(known, depth, 1.0).log(), grid)
    counts = to_patches(known, grid).sum(-1)
    return logs.sum(-1) / counts.clamp(min=1), counts > 0


def depth_table(
    context: EvaluationContext, fit: DepthFit, unit: str, task: str | None = None
) -> EvaluationTable:
    """The table of one map: the heads of `fit` on the split that is scored."""
    judge = DepthJudge(fit)
    for batch in dense_batches(context, EVALUATION):
        judge.add(batch, {row: fit.depths(row, batch) for row in batch.tokens})
    head = "Ridge to the log-depth of each patch with an offset for each place, bilinear in between; "
    return judge.table(context, unit, task, head)


class DepthJudge:
    """Adds up the errors of guessed maps, with the guesses that need no image."""

    def __init__(self, fit: DepthFit) -> None:
        assert fit.means is not None
        self.fit, self.means = fit, fit.means
        self.errors: dict[str, DepthErrors] = {}
        self.images = self.pixels = self.holes = 0
        self.objects: str | None = None

    def add(self, batch: DenseBatch, guesses: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Adds a batch and the depths that each row guesses: of patches [B, N] and of pixels [B, H, W]."""
        values = batch.maps[self.fit.name]
        known = valid_pixels(values, self.fit.name)
        target, patch_known = log_patches(values, known, self.fit.grid)
        self.objects = object_map(batch)
        objects = None if self.objects is None else batch.maps[self.objects] > 0
        for row, (patches, pixels) in {**guesses, **self._blind(batch)}.items():
            errors = self.errors.setdefault(row, DepthErrors())
            errors.add_patches(patches.to(values.device), target.exp(), patch_known)
            errors.add_pixels(pixels.to(values.device), values, known, objects)
        self.images += batch.images
        self.pixels += known.numel()
        self.holes += int((~known).sum())

    def _blind(self, batch: DenseBatch) -> dict[str, tuple[Tensor, Tensor]]:
        device, count = batch.views.device, batch.images
        pixels = self.means.pixels().to(device).expand(count, -1, -1)
        patches = self.means.patches().to(device).expand(count, -1)
        place = self.fit.around_mean(torch.zeros_like(patches), batch)
        return {PLACE: place, MEAN_MAP: (patches, pixels)}

    def table(self, context: EvaluationContext, unit: str, task: str | None, head: str) -> EvaluationTable:
        """The scores of every row. Raises UserError where the scored split has no depth."""
        if self.pixels == self.holes:
            raise UserError(
                f"targets.{self.fit.name} of the {context.split} split holds no depth: all {self.pixels:,} "
                "pixels are holes (0, NaN or infinite)"
            )
        return context.table(
            score_rows(self.errors, MEAN_MAP, unit),
            count=self.images,
            samples="images",
            task=task,
            note=head + " ".join(self._notes(context)),
        )

    def _notes(self, context: EvaluationContext) -> Iterator[str]:
        fit = self.fit
        same = ", the scored ones, so no measure of new ones" if context.split == "train" else ""
        yield f"fitted on {fit.images:,} training images{same}."
        yield "skill (of patches, and of pixels): 1 - squared error / that of the mean training map."
        yield "rmse, abs_rel and delta1 (ratio below 1.25) of the pixels of each image, then their mean."
        if self.objects is not None:
            yield f"rmse_objects: where targets.{self.objects} is above 0."
        for split, holes, pixels in (
            ("training", fit.holes, fit.pixels),
            ("scored", self.holes, self.pixels),
        ):
            if holes:
                yield f"{holes:,} of {pixels:,} {split} pixels are holes (0, NaN, infinite) and left out."


def object_map(batch: DenseBatch) -> str | None:
    """The first map of whole numbers; its pixels above 0 are objects."""
    return next((name for name, values in batch.maps.items() if not values.is_floating_point()), None)
