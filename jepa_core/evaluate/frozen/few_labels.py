"""Classifiers for a few labelled samples: nearest class mean, logistic regression, nearest neighbours.

What is unusual: all of them depend on the labelled samples' span alone. Where there are fewer samples than
features, samples and queries are first written in a basis of that span, which changes no guess and is much
quicker.

Axes: N labelled samples, m queries, D width, C classes, k neighbours or folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from jepa_core.evaluate.frozen.draws import stratified_folds
from jepa_core.evaluate.linear_head import Labelled
from jepa_core.evaluate.logistic import Fit, Logistic
from jepa_core.evaluate.probes import KNN

FOLDS = 5
FIXED_L2 = 0.1
"""Where a class has one label, so that no sample can be kept out."""


def restrict_to_span(samples: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Samples [N, D] and queries [m, D] in an orthonormal basis of the samples' span, where N < D.

    Inner products with the samples stay as they are, and so do differences of distances to them.
    """
    count, width = samples.shape
    if count >= width:
        return samples, queries
    basis = torch.linalg.qr(samples.T).Q
    return samples @ basis, queries @ basis


def class_means(train: Labelled, queries: Tensor, classes: int) -> Tensor:
    """Guesses int64 [m]: the class whose mean is nearest (Euclidean); a class without samples is never
    one."""
    features, labels = train
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=classes)
    means = sums / counts.clamp(min=1)[:, None]
    distances = means.square().sum(1) - 2 * queries @ means.T
    return distances.masked_fill(counts == 0, torch.inf).argmin(1)


def neighbours(train: Labelled, queries: Tensor, classes: int, k: int) -> Tensor:
    """Guesses int64 [m]: the majority among the k nearest by cosine (the probe knn)."""
    probe = KNN(KNN.Config(name="knn", k=min(k, len(train[0]))))
    nobody = torch.zeros(len(queries), dtype=torch.int64)
    return probe(train, (queries, nobody), classes).guesses


def logistic(
    train: Labelled, queries: Tensor, classes: int, strengths: Sequence[float], generator: Generator
) -> tuple[Tensor, float]:
    """(guesses int64 [m], the L2 strength), chosen by k-fold on the labelled samples.

    Stratified, k the smallest count of a class, at most `FOLDS`; `FIXED_L2` where a class has one sample.
    """
    features, labels = train
    least = int(torch.bincount(labels, minlength=classes).clamp(max=FOLDS)[labels.unique()].min())
    solver = Logistic(features, labels, classes)
    l2, start = FIXED_L2, None
    if least >= 2 and len(strengths) > 1:
        l2 = choose_strength(solver, strengths, stratified_folds(labels, least, generator))
    elif least >= 2:
        l2 = strengths[0]
    weight, bias = solver.fit(l2, start)
    return (queries @ weight + bias).argmax(1), l2


def choose_strength(solver: Logistic, strengths: Sequence[float], folds: Tensor) -> float:
    """The strength with the most right guesses over all folds, each fitted on the others; the stronger of
    equals."""
    ordered = sorted(strengths, reverse=True)
    right = torch.zeros(len(ordered))
    for fold in folds.unique().tolist():
        out = (folds == fold).nonzero()[:, 0]
        part = solver.subset((folds != fold).nonzero()[:, 0])
        fit: Fit | None = None
        for place, l2 in enumerate(ordered):
            fit = part.fit(l2, fit)
            weight, bias = fit
            right[place] += (solver.x[out] @ weight + bias).argmax(1).eq(solver.y[out]).sum()
    return ordered[int(right.argmax())]
