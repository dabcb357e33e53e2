"""Groups of images that lie together by their pooled features: what a report shows of images without labels.

Axes: n images, D width, k clusters.
"""

from __future__ import annotations

import numpy as np
from torch.nn import functional as F

from jepa_core.plots.sheets import Cell, Sheet
from jepa_core.report.embeddings import ImageFeatures, thumb_pixels

CLUSTERS, SHOWN = 8, 8
"""Clusters, and images of each that are shown."""
LEAST = 4
"""Images for each cluster, on average: of fewer images fewer clusters are made."""


def cluster_sheet(images: ImageFeatures) -> Sheet | None:
    """The images nearest to the centre of each cluster, the largest cluster first; None for few images."""
    count = min(CLUSTERS, len(images.values) // LEAST)
    if count < 2:
        return None
    labels, distances = find_clusters(images, count)
    sizes = np.bincount(labels, minlength=count)
    groups = []
    for label in np.argsort(-sizes, kind="stable"):
        members = np.flatnonzero(labels == label)
        nearest = members[np.argsort(distances[members], kind="stable")][:SHOWN]
        caption = f"of {sizes[label]} images"
        cells = [Cell(thumb_pixels(images.thumbs[int(row)])) for row in nearest]
        groups.append([Cell(cells[0].pixels, caption, strong=True), *cells[1:]])
    return Sheet(
        "clusters", f"Clusters of {len(labels)} images of the {images.split} split", groups, "across"
    )


def find_clusters(images: ImageFeatures, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(cluster int [n], distance to its centre float [n]): k-means on features of length 1, one seed."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    unit = F.normalize(images.values, dim=1).double().numpy()
    with threadpool_limits(1):  # so that sums are taken in one order
        fitted = KMeans(count, n_init=4, random_state=0).fit(unit)
    return fitted.labels_, np.linalg.norm(unit - fitted.cluster_centers_[fitted.labels_], axis=1)
