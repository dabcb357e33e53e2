"""Label-free scores of features: α-ReQ, LiDAR, CLID. RankMe stands in `evaluate/collapse.py`.

All of them depend on the number of samples and on the width, so they compare features of one width, made from
the same samples; none is a substitute for a probe.

Axes: n samples, q views of each, D width, k clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

FIRST_EIGENVALUE = 10
"""Of the window in which α-ReQ fits its line, counted from 1."""
WITHIN_RIDGE = 1e-4
ENTROPY_OFFSET = 1e-8
DROPPED_RATIOS = 0.1
"""Share of the largest distance ratios that TwoNN leaves out."""
KMEANS_ITERATIONS = 50


def alpha_window(count: int, width: int) -> tuple[int, int]:
    """(first, last) eigenvalue of the fit, counted from 1: 10 … min(n, D)/2, or from 1 where that is
    short."""
    last = max(2, min(count, width) // 2)
    return (FIRST_EIGENVALUE if last >= 2 * FIRST_EIGENVALUE else 1), last


def alpha_req(features: Tensor) -> float:
    """α-ReQ of features [n, D]: minus the slope of log λ_i on log i, over the eigenvalues of `alpha_window`.

    λ are those of the covariance of the centred features, descending (Agrawal et al. 2022, NeurIPS, α-ReQ).
    About 1 is good; larger: few directions carry all; NaN where an eigenvalue of the window is not positive.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred).square() / len(features)
    first, last = alpha_window(*features.shape)
    window = values[first - 1 : last]
    if not (window > 0).all():
        return math.nan
    x = torch.arange(first, first + len(window), dtype=torch.float64).log()
    x, y = x - x.mean(), window.log()
    return -((x * y).sum() / x.square().sum()).item()


def lidar(views: Tensor) -> float:
    """LiDAR of features [n, q, D] of q views of each of n images, from 1 to min(D, n - 1).

    The smooth rank of Σ_w^-½ Σ_b Σ_w^-½: Σ_b of the images' means, over n - 1; Σ_w within images, over n (q -
    1), plus 1e-4 · identity; exp(-Σ p log p) of its eigenvalues' shares p + 1e-8 (Thilak et al. 2023, arXiv
    2312.04000, §4). Raises ValueError for fewer than two images or views.
    """
    count, of_each, width = views.shape
    if count < 2 or of_each < 2:
        raise ValueError(f"LiDAR takes two images and two views of each, or more; got {count} and {of_each}")
    values = views.double()
    means = values.mean(1)
    within = (values - means[:, None]).reshape(-1, width)
    between = means - means.mean(0)
    sigma_w = within.T @ within / (count * (of_each - 1)) + WITHIN_RIDGE * torch.eye(
        width, dtype=values.dtype
    )
    # the eigenvalues of S Sᵀ, S = Σ_w^-½ · between / √(n-1), are the squared singular values of L⁻¹ · between
    scaled = torch.linalg.solve_triangular(torch.linalg.cholesky(sigma_w), between.T, upper=False)
    eigenvalues = torch.linalg.svdvals(scaled).square() / (count - 1)
    total = eigenvalues.sum()
    if total == 0:
        return 0.0
    p = eigenvalues / total + ENTROPY_OFFSET
    return torch.exp(-(p * p.log()).sum()).item()


def intrinsic_dimension(features: Tensor) -> float:
    """TwoNN of features [n, D], from the ratios r2/r1 of the distances to the second and first neighbour.

    The slope through the origin of -log(1 - i/n) on the i-th smallest log ratio.
    The largest tenth of the ratios, and samples whose first neighbour is at no distance, are left out (Facco
    et al. 2017). NaN where none is left.
    """
    nearest = torch.cdist(features.double(), features.double()).topk(3, largest=False).values
    first, second = nearest[:, 1], nearest[:, 2]
    apart = first > 0
    ratios = (second[apart] / first[apart]).log().sort().values
    count = len(ratios)
    share = torch.arange(1, count + 1, dtype=torch.float64) / max(1, count)
    x = ratios[: math.floor((1 - DROPPED_RATIOS) * count)]
    y = -(1 - share[: len(x)]).log()
    total = x.square().sum().item()
    return (x * y).sum().item() / total if total > 0 else math.nan


def cluster_learnability(features: Tensor, generator: Generator) -> float:
    """Accuracy of the nearest neighbour by cosine on the clusters of the features [n, D], from 0 to 1.

    k-means with k = √n labels all samples; those of a random half are told by their nearest one of the other
    half (Lu et al. 2022, arXiv 2206.01251).
    """
    clusters = kmeans(features, max(2, round(math.sqrt(len(features)))), generator)
    order = torch.randperm(len(features), generator=generator)
    bank, queries = order[: len(order) // 2], order[len(order) // 2 :]
    unit = F.normalize(features.float(), dim=1)
    nearest = (unit[queries] @ unit[bank].T).argmax(1)
    return clusters[bank][nearest].eq(clusters[queries]).double().mean().item()


def kmeans(features: Tensor, k: int, generator: Generator) -> Tensor:
    """The cluster 0 … k-1 of each of features [n, D], int64 [n]: Lloyd's iterations from k random samples.

    A cluster that loses all of its samples keeps its centre.
    """
    values = features.float()
    centres = values[torch.randperm(len(values), generator=generator)[:k]].clone()
    clusters = torch.full((len(values),), -1)
    for _ in range(KMEANS_ITERATIONS):
        nearest = torch.cdist(values, centres).argmin(1)
        if torch.equal(nearest, clusters):
            break
        clusters = nearest
        counts = torch.bincount(clusters, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, clusters, values)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return clusters
