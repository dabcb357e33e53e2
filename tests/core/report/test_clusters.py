"""Clusters of images without labels."""

from __future__ import annotations

import torch

from jepa_core.report.clusters import cluster_sheet, find_clusters
from jepa_core.report.embeddings import ImageFeatures


def features(values: torch.Tensor) -> ImageFeatures:
    thumbs = torch.arange(len(values), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    return ImageFeatures("test", values, torch.full((len(values),), -1), thumbs, None)


def test_images_of_one_direction_are_one_cluster_the_largest_first() -> None:
    directions = torch.eye(3)[[0] * 5 + [1] * 4 + [2] * 3]
    values = directions * torch.linspace(1, 9, 12)[:, None] + 0.01 * torch.eye(12)[:, :3]
    labels, distances = find_clusters(features(values), 3)
    assert len({*labels[:5]}) == len({*labels[5:9]}) == len({*labels[9:]}) == 1
    assert distances.max() < 0.1
    sheet = cluster_sheet(features(values))
    assert sheet is not None
    assert [group[0].caption for group in sheet.groups] == ["of 5 images", "of 4 images", "of 3 images"]
    shown = [{int(cell.pixels[0, 0, 0]) for cell in group} for group in sheet.groups]
    assert shown == [{0, 1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11}]


def test_a_handful_of_images_has_no_clusters() -> None:
    assert cluster_sheet(features(torch.randn(7, 4))) is None
