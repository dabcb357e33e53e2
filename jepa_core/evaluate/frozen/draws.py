"""Draws of a few labelled samples a class, and folds that keep the classes' shares.

Axes: n samples, N drawn ones, C classes, k folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def draw_orders(labels: Tensor, classes: int, generator: Generator) -> list[Tensor]:
    """For each class its samples, int64 positions in `labels`, in a random order.

    The first so many of each are a draw, and smaller draws are parts of larger ones.
    """
    return [
        places[torch.randperm(len(places), generator=generator)]
        for places in ((labels == number).nonzero()[:, 0] for number in range(classes))
    ]


def first_of_each(orders: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The first `counts[c]` samples of each class c, class after class, int64 [N]."""
    return torch.cat([order[:count] for order, count in zip(orders, counts, strict=True)])


def stratified_folds(labels: Tensor, k: int, generator: Generator) -> Tensor:
    """The fold 0 … k-1 of each sample, int64 [N]: each class is spread evenly, its order drawn.

    A class of m samples has m/k of them, rounded down or up, in each fold.
    """
    folds = torch.empty_like(labels)
    for number in labels.unique().tolist():
        places = (labels == number).nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator)
        folds[places[order]] = torch.arange(len(places), device=labels.device) % k
    return folds
