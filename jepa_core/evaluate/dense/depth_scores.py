"""How far a depth map is off: sums for each image, and the scores that are made of them.

Axes: B images of a batch, m images of a split, N patches, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.score_tables import SHARE, MetricScore

CLOSE = 1.25
"""The largest ratio of two depths that counts as a hit of δ1."""


def valid_pixels(depth: Tensor, name: str) -> Tensor:
    """bool, of the shape of `depth`: where it is known; 0, NaN and infinite numbers are holes.

    Raises UserError for negative numbers, which are no depths.
    """
    known = depth.isfinite() & (depth != 0)
    if (depth[known] < 0).any():
        least = depth[known].min().item()
        raise UserError(
            f"targets.{name} holds {least:.4g}; a depth is positive (0, NaN and infinite: a hole)"
        )
    return known


@dataclass
class DepthErrors:
    """The errors of one row of the table, an entry for each image; NaN where nothing can be compared."""

    parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add_patches(self, guess: Tensor, depth: Tensor, known: Tensor) -> None:
        """Of patches, [B, N] each."""
        self._add("patches", (guess - depth).square(), known, mean=False)

    def add_pixels(self, guess: Tensor, depth: Tensor, known: Tensor, objects: Tensor | None) -> None:
        """Of pixels, [B, H, W] each; `objects`, bool, are those on an object where that is known."""
        guess, depth, known = guess.flatten(1), depth.flatten(1), known.flatten(1)
        squares = (guess - depth).square()
        self._add("pixels", squares, known, mean=False)
        self._add("squares", squares, known)
        if objects is not None:
            self._add("objects", squares, known & objects.flatten(1))
        safe = torch.where(known, depth, 1.0)
        self._add("relative", (guess - depth).abs() / safe, known)
        ratio = torch.maximum(guess / safe, safe / guess.clamp(min=1e-12))
        self._add("close", (ratio < CLOSE).double(), known)

    def _add(self, name: str, values: Tensor, where: Tensor, mean: bool = True) -> None:
        sums = torch.where(where, values.double(), 0.0).sum(1)
        counts = where.sum(1)
        empty = counts == 0
        result = sums / counts.clamp(min=1) if mean else sums
        self.parts.setdefault(name, []).append(torch.where(empty, torch.nan, result).cpu())

    def of(self, name: str) -> Tensor:
        """float64 of the images that have any: sums of squares of `patches` and `pixels`, means otherwise."""
        values = torch.cat(self.parts[name])
        return values[~values.isnan()]

    def scores(self, base: DepthErrors, unit: str) -> dict[str, MetricScore]:
        """The scores beside those of the mean map, `base`.

        `skill` (patches) and `skill_pixels`: 1 - Σ squared errors / Σ those of the mean map, over the split.
        `rmse`, `rmse_objects`, `abs_rel`, `delta1`: of the pixels of each image, then the mean over images.
        """
        result = {
            "skill": _skill(self.of("patches"), base.of("patches")),
            "skill_pixels": _skill(self.of("pixels"), base.of("pixels")),
            "rmse": _mean(self.of("squares").sqrt(), unit, "lower"),
        }
        if "objects" in self.parts:
            result["rmse_objects"] = _mean(self.of("objects").sqrt(), unit, "lower")
        result["abs_rel"] = _mean(self.of("relative"), "", "lower")
        result["delta1"] = _mean(self.of("close"), SHARE, "higher")
        return result


def _skill(errors: Tensor, base: Tensor) -> MetricScore:
    """Its standard error is that of a ratio of two means over images, by the delta method."""
    if not len(base) or base.sum() <= 0:
        return MetricScore(value=math.nan)
    ratio = errors.sum() / base.sum()
    influence = (errors - ratio * base) / base.mean()
    error = influence.std(correction=0) / math.sqrt(len(base))
    return MetricScore(value=1 - ratio.item(), se=error.item(), chance=0.0)


def _mean(values: Tensor, unit: str, better: str) -> MetricScore:
    if not len(values):
        return MetricScore.model_validate({"value": math.nan, "unit": unit, "better": better})
    error = values.std(correction=0).item() / math.sqrt(len(values))
    return MetricScore.model_validate(
        {"value": values.mean().item(), "se": error, "unit": unit, "better": better}
    )


@dataclass
class MeanMaps:
    """Sums of the training depths by place: the guesses that need no image. Pixels [H, W], patches [N]."""

    pixel_sum: Tensor
    pixel_log: Tensor
    pixel_count: Tensor
    patch_sum: Tensor
    log_sum: Tensor
    patch_count: Tensor

    @classmethod
    def empty(cls, size: Sequence[int], patches: int) -> MeanMaps:
        """Of maps of this size in so many patches."""
        pixels, of_patches = torch.zeros(3, *size).double(), torch.zeros(3, patches).double()
        return cls(*pixels, *of_patches)

    def add(self, depth: Tensor, known: Tensor, patch_log: Tensor, patch_known: Tensor) -> None:
        """Adds maps [B, H, W] and the mean logarithms [B, N] of their patches."""
        self.pixel_sum += torch.where(known, depth, 0.0).double().sum(0).cpu()
        self.pixel_log += torch.where(known, depth, 1.0).log().double().sum(0).cpu()
        self.pixel_count += known.sum(0).cpu()
        self.patch_sum += torch.where(patch_known, patch_log.exp(), 0.0).double().sum(0).cpu()
        self.log_sum += torch.where(patch_known, patch_log, 0.0).double().sum(0).cpu()
        self.patch_count += patch_known.sum(0).cpu()

    def pixels(self) -> Tensor:
        """[H, W]: the mean depth of each pixel; that of all where a pixel never has one."""
        return _means(self.pixel_sum, self.pixel_count)

    def log_pixels(self) -> Tensor:
        """[H, W]: the mean log-depth of each pixel: the offset of every read-out there."""
        return _means(self.pixel_log, self.pixel_count)

    def patches(self) -> Tensor:
        """[N]: the mean over images of the depth of each patch."""
        return _means(self.patch_sum, self.patch_count)

    def log_patches(self) -> Tensor:
        """[N]: the mean log-depth of each patch: the best a head can do that sees the place alone."""
        return _means(self.log_sum, self.patch_count)


def _means(sums: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts > 0, sums / counts.clamp(min=1), sums.sum() / counts.sum()).float()


def score_rows(errors: Mapping[str, DepthErrors], base: str, unit: str) -> dict[str, dict[str, MetricScore]]:
    """The scores of every row; `base` is that of the mean map."""
    return {row: own.scores(errors[base], unit) for row, own in errors.items()}
