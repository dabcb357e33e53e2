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
"""Neighbours of each image on the page."""
PERPLEXITY = 30
MIN_IMAGES = 12
"""Images that a map needs at least."""


def nearest_rows(
    queries: Tensor, gallery: Tensor, k: int, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(cosine [q, k], index [q, k]) of the k most similar of `gallery` [n, D] to `queries` [q, D].

    `own` int64 [q]: the index of each query in the gallery, where it is in it; it is left out of its own
    neighbours.
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
    cosines, indices = nearest_rows(queries.values[rows], gallery.values, K, own)
    groups = []
    for row, row_cosines, row_indices in zip(rows.tolist(), cosines.tolist(), indices.tolist(), strict=True):
        query_class = queries.class_of(row)
        cells = [Cell(thumb_pixels(queries.thumbs[row]), query_class or "image", strong=True)]
        for index, cosine in zip(row_indices, row_cosines, strict=True):
            caption = _caption(query_class, gallery.class_of(index), cosine)
            cells.append(Cell(thumb_pixels(gallery.thumbs[index]), caption))
        groups.append(cells)
    title = f"Images of the {queries.split} split and their nearest of the {gallery.split} split"
    labels = [queries.split, *(f"{i + 1}." for i in range(K))]
    return Sheet("neighbours", title, groups, "across", labels)


def _caption(query_class: str | None, neighbour_class: str | None, cosine: float) -> str:
    if neighbour_class is None:
        return f"{cosine:.3f}"
    return f"{'✓ ' if query_class == neighbour_class else ''}{neighbour_class} {cosine:.3f}"


def flat_map(values: Tensor) -> np.ndarray:
    """float [n, 2]: t-SNE (van der Maaten & Hinton 2008) of features [n, D], after PCA to 50 dimensions.

    Cosine distances, started from the first two components: the same features give the same map.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    unit = F.normalize(values, dim=1).double().numpy()
    reduced = PCA(min(50, *unit.shape), random_state=0, svd_solver="full").fit_transform(unit)
    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)
    with threadpool_limits(1):  # so that sums are taken in one order
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return np.asarray(points)
