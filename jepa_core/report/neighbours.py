"""Nearest neighbours of test images, and a map of the test images, by their pooled features.

Axes: n images, q queries, k neighbours, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.plots.sheets import Cell, Sheet
from jepa_core.report.embeddings import ImageFeatures, thumb_pixels

K = 7
"""Neighbours that are shown of each image."""
PERPLEXITY = 30
FEWEST = 12
"""Images below which a map of them says nothing."""


def nearest(queries: Tensor, gallery: Tensor, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(cosine [q, k], index [q, k]) of the k most similar of `gallery` [n, D] to `queries` [q, D].

    `own` int64 [q]: where each query stands in the gallery itself; it is no neighbour of its own.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    if own is not None:
        similarity.scatter_(1, own[:, None], -torch.inf)
        k = min(k, len(gallery) - 1)
    best = similarity.topk(min(k, len(gallery)), dim=1)
    return best.values, best.indices


def neighbour_sheet(queries: ImageFeatures, gallery: ImageFeatures, count: int) -> Sheet:
    """`count` evenly spaced queries, each with its nearest images of the gallery, nearest first."""
    count = min(count, len(queries.values))
    rows = torch.arange(count) * len(queries.values) // count
    own = rows if queries.split == gallery.split else None
    cosines, found = nearest(queries.values[rows], gallery.values, K, own)
    groups = []
    for row, near, order in zip(rows.tolist(), cosines.tolist(), found.tolist(), strict=True):
        asked = queries.class_of(row)
        cells = [Cell(thumb_pixels(queries.thumbs[row]), asked or "image", strong=True)]
        for index, cosine in zip(order, near, strict=True):
            said = _caption(asked, gallery.class_of(index), cosine)
            cells.append(Cell(thumb_pixels(gallery.thumbs[index]), said))
        groups.append(cells)
    title = f"Images of the {queries.split} split and their nearest of the {gallery.split} split"
    labels = [queries.split, *(f"{i + 1}." for i in range(K))]
    return Sheet("neighbours", title, groups, "across", labels)


def _caption(own: str | None, other: str | None, cosine: float) -> str:
    if other is None:
        return f"{cosine:.3f}"
    return f"{'✓ ' if own == other else ''}{other} {cosine:.3f}"


def flat_map(values: Tensor) -> np.ndarray:
    """float [n, 2]: t-SNE (van der Maaten & Hinton 2008) of features [n, D], after PCA to 50 dimensions.

    Cosine distances, started from the first two components: the same features give the same map.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    unit = F.normalize(values, dim=1).double().numpy()
    few = PCA(min(50, *unit.shape), random_state=0, svd_solver="full").fit_transform(unit)
    perplexity = min(PERPLEXITY, (len(few) - 1) / 3)
    with threadpool_limits(1):  # sums in one order
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(few)
    return np.asarray(points)
