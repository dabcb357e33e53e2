"""Accuracy and mean intersection over union from one confusion matrix over a whole split.

Averages over images would count a class that is rare as often as it is seen, and are not what is published.

Axes: C classes, B images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa_core.evaluate.score_tables import SHARE, MetricScore


class Confusion:
    """Counts int64 [C, C] of true (rows) and guessed (columns) classes."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        self.images: list[Tensor] = []
        """[B, 2] of each batch: right guesses and counted places of each image."""

    def add(self, guess: Tensor, truth: Tensor) -> None:
        """Classes int64 [B, places]; a negative true class is not counted."""
        counted = truth >= 0
        classes = len(self.counts)
        pairs = truth[counted] * classes + guess[counted]
        self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes).cpu()
        right = ((guess == truth) & counted).sum(1)
        self.images.append(torch.stack([right, counted.sum(1)], 1).cpu())

    def accuracy(self, chance: float | None = None) -> MetricScore:
        """The share of right guesses, with the standard error of a ratio over images."""
        right, counted = torch.cat(self.images).double().unbind(1)
        share = right.sum() / counted.sum()
        influence = (right - share * counted) / counted.mean()
        error = influence.std(correction=0) / math.sqrt(len(right))
        return MetricScore(value=share.item(), se=error.item(), unit=SHARE, chance=chance)

    def ious(self) -> Tensor:
        """float64 [C]: TP / (TP + FP + FN); NaN for a class that is neither there nor guessed."""
        counts = self.counts.double()
        right = counts.diagonal()
        return right / (counts.sum(0) + counts.sum(1) - right)

    def mean_iou(self) -> MetricScore:
        """The mean over the classes that are there or guessed."""
        return MetricScore(value=self.ious().nanmean().item(), unit=SHARE)
