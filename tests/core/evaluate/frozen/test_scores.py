"""Formulas by hand-made cases: average precision, chance, α-ReQ, LiDAR, TwoNN, k-means, corruption."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Generator, Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.frozen.class_retrieval import (
    average_precision,
    hit_chance,
    random_precision,
    score_retrieval,
)
from jepa_core.evaluate.frozen.corruptions import CORRUPTIONS, corrupt
from jepa_core.evaluate.frozen.label_free import random_crops
from jepa_core.evaluate.frozen.label_free_scores import (
    alpha_req,
    alpha_window,
    cluster_learnability,
    intrinsic_dimension,
    kmeans,
    lidar,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_average_precision_by_hand() -> None:
    hits = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    assert average_precision(hits).tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 4, 1.0])


@pytest.mark.parametrize(("relevant", "count"), [(1, 4), (2, 5), (3, 5), (5, 5)])
def test_chance_levels_are_the_means_over_all_orders(relevant: int, count: int) -> None:
    orders = torch.tensor(sorted(set(permutations([1] * relevant + [0] * (count - relevant))))).bool()
    assert random_precision(relevant, count) == pytest.approx(average_precision(orders).mean().item())
    for k in range(1, count + 1):
        assert hit_chance(relevant, count, k) == pytest.approx(orders[:, :k].any(1).double().mean().item())


def test_retrieval_leaves_the_query_out() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    same = score_retrieval((features, labels), (features, labels), same=True)
    assert same["map"].value == same["r1"].value == 1.0, "class 2 has one sample, and is not counted"
    assert same["r1"].chance == pytest.approx(1 / 4)
    alternate = score_retrieval(
        (features, torch.tensor([0, 1, 0, 1, 2])), (features, torch.tensor([0, 1, 0, 1, 2])), same=True
    )
    assert alternate["r1"].value == 0.0, "would be 1 if a query found itself"
    other = score_retrieval((features, labels), (features, labels), same=False)
    assert other["r1"].value == 1.0
    with pytest.raises(UserError, match="no sample has another one of its class"):
        score_retrieval((features[:2], torch.tensor([0, 1])), (features[:2], torch.tensor([0, 1])), same=True)


def test_retrieval_of_noise_is_at_its_chance_level() -> None:
    features = torch.randn(600, 8, generator=seeded())
    labels = torch.randint(5, (600,), generator=seeded(1))
    for score in score_retrieval((features, labels), (features, labels), same=True).values():
        assert score.chance is not None
        assert score.se is not None
        assert abs(score.value - score.chance) < 5 * max(score.se, 0.004)


def power_law(alpha: float, count: int, width: int) -> Tensor:
    """Features whose covariance has the eigenvalues i^-alpha exactly."""
    basis = torch.linalg.qr(torch.randn(count, width, generator=seeded(), dtype=torch.float64)).Q
    basis = torch.linalg.qr(basis - basis.mean(0)).Q  # centred columns stay so: their span has no constant
    spectrum = torch.arange(1, width + 1, dtype=torch.float64) ** (-alpha / 2)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=seeded(1), dtype=torch.float64)).Q
    return basis * spectrum * math.sqrt(count) @ rotation + 7.0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
def test_alpha_req_is_the_exponent_of_a_power_law(alpha: float) -> None:
    assert alpha_req(power_law(alpha, 300, 64)) == pytest.approx(alpha, abs=1e-6)


def test_the_window_of_alpha_req() -> None:
    assert alpha_window(10_000, 128) == (10, 64)
    assert alpha_window(100, 512) == (10, 50)
    assert alpha_window(30, 30) == (1, 15), "too short to begin at 10"
    assert math.isnan(alpha_req(torch.ones(50, 40)))


def test_lidar_counts_the_directions_between_images() -> None:
    """Two images' means on each of k orthogonal axes, the same noise within all: a rank of k."""
    noise = 0.01 * torch.randn(12, 30, 6, generator=seeded())
    noise -= noise.mean(1, keepdim=True)
    for rank in (1, 2, 4):
        means = torch.zeros(12, 6)
        for image in range(2 * rank):
            means[image, image // 2] = 1 if image % 2 else -1
        assert lidar(means[:, None] + noise) == pytest.approx(rank, rel=0.06)


def test_lidar_is_the_formula_and_lies_in_its_bounds() -> None:
    views = torch.randn(7, 5, 4, generator=seeded(), dtype=torch.float64) + torch.randn(
        7, 1, 4, generator=seeded(1)
    )
    means = views.mean(1)
    between = torch.cov(means.T)
    within = sum(torch.cov(of_image.T) for of_image in views) / 7 + 1e-4 * torch.eye(4)
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors @ torch.diag(values**-0.5) @ vectors.T
    p = torch.linalg.eigvalsh(whiten @ between @ whiten)
    p = p / p.sum() + 1e-8
    assert lidar(views) == pytest.approx(torch.exp(-(p * p.log()).sum()).item(), rel=1e-6)
    assert 1 <= lidar(torch.randn(5, 3, 50, generator=seeded())) <= 4 + 1e-3, (
        "n - 1 where that is less than D"
    )
    assert lidar(torch.ones(4, 3, 5)) == 0.0
    with pytest.raises(ValueError, match="two images and two views"):
        lidar(torch.ones(4, 1, 5))


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_twonn_tells_the_dimension_of_a_cube_in_a_wide_space(dimension: int) -> None:
    cube = torch.rand(1500, dimension, generator=seeded())
    basis = torch.linalg.qr(torch.randn(20, dimension, generator=seeded(1))).Q
    assert intrinsic_dimension(cube @ basis.T) == pytest.approx(dimension, rel=0.15)
    assert math.isnan(intrinsic_dimension(torch.ones(10, 3)))


def test_clusters_far_apart_are_learnt_and_kmeans_finds_them() -> None:
    centres = 10 * torch.eye(3)
    truth = torch.arange(90) % 3
    features = centres[truth] + 0.1 * torch.randn(90, 3, generator=seeded())
    best = max(
        sum(len(truth[clusters == c].unique()) == 1 for c in range(3))
        for clusters in (kmeans(features, 3, seeded(s)) for s in range(8))
    )
    assert best == 3
    line = torch.stack([torch.linspace(0, 1.5, 400).cos(), torch.linspace(0, 1.5, 400).sin()], 1)
    noise = torch.randn(400, 200, generator=seeded())
    assert cluster_learnability(line, seeded()) > 0.9 > 0.5 > cluster_learnability(noise, seeded())


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_each_severity_is_further_from_the_image(kind: str) -> None:
    ramp = torch.linspace(0.1, 0.7, 32)
    images = torch.stack(
        [
            ramp.expand(32, 32),
            ramp[:, None].expand(32, 32),
            (ramp * 40).sin()[:, None] * 0.3 + 0.4 + 0 * ramp,
        ],
        0,
    )
    images = images.expand(2, 3, 32, 32)
    distances = []
    for severity in range(1, 6):
        changed = corrupt(images, kind, severity, seeded())
        assert changed.shape == images.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
        distances.append((changed - images).square().mean().item())
    assert distances == sorted(distances) or kind == "jpeg"
    assert 0 < distances[0] < distances[-1]
    assert torch.equal(corrupt(images, kind, 3, seeded()), corrupt(images, kind, 3, seeded()))


def test_brightness_keeps_hue_and_contrast_keeps_the_mean() -> None:
    pixel = torch.tensor([0.5, 0.25, 0.0]).view(1, 3, 1, 1)
    assert corrupt(pixel, "brightness", 5, seeded()).flatten().tolist() == pytest.approx([0.8, 0.4, 0.0])
    assert corrupt(0 * pixel, "brightness", 1, seeded()).flatten().tolist() == pytest.approx([0.05] * 3)
    images = torch.rand(2, 3, 8, 8, generator=seeded())
    low = corrupt(images, "contrast", 5, seeded())
    assert torch.allclose(low.mean((2, 3)), images.mean((2, 3)), atol=1e-6)
    assert torch.allclose(low.std((2, 3)), 0.15 * images.std((2, 3)), atol=1e-6)


def test_a_blur_grows_with_the_image_and_keeps_the_mean() -> None:
    small, large = torch.zeros(1, 3, 33, 33), torch.zeros(1, 3, 66, 66)
    small[..., 16, 16], large[..., 32:34, 32:34] = 1, 1
    spread = [corrupt(image, "blur", 5, seeded()) for image in (small, large)]
    assert spread[0].sum().item() == pytest.approx(3, rel=1e-5)
    assert spread[1][0, 0].max().item() == pytest.approx(spread[0][0, 0].max().item(), rel=0.2)


def test_crops_are_parts_of_the_view_and_seeded() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(4, 1, 16, 16)
    crops = random_crops(ramp, 0.3, seeded())
    assert crops.shape == ramp.shape
    spans = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    assert (spans <= 2.001).all()
    assert (spans >= 2 * math.sqrt(0.3) - 0.15).all()
    assert torch.equal(crops, random_crops(ramp, 0.3, seeded()))
    clips = random_crops(torch.rand(2, 3, 4, 8, 8, generator=seeded()), 0.5, seeded())
    assert clips.shape == (2, 3, 4, 8, 8)
    frames = ramp[:, :, None].expand(4, 1, 3, 16, 16)
    same = random_crops(frames, 0.5, seeded(3))
    assert torch.allclose(same[:, :, 0], same[:, :, 2]), "one crop for all frames"
