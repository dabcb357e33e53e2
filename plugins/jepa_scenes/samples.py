"""Scenes of one split in memory: images by the batch for training, depth and objects with each sample.

Axes: n scenes, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from jepa_core import Field, Sample
from jepa_core.data.samples import BaseSamples, Indices
from jepa_scenes.rendering import PIXEL_CLASSES
from jepa_scenes.scene import MOST_OBJECTS

Maps = Mapping[str, Tensor]
"""`depth` float16 [n, S, S], `ids` and `shape` uint8 [n, S, S]."""


def scene_fields(size: int) -> dict[str, Field]:
    """What a sample holds, at this many pixels a side."""
    side = (size, size)
    return {
        "views.image": Field("image", (3, size, size)),
        "targets.depth": Field("map", side, units="scene units"),
        "targets.ids": Field("map", side, vocabulary=MOST_OBJECTS + 1),
        "targets.shape": Field("map", side, vocabulary=len(PIXEL_CLASSES), names=PIXEL_CLASSES),
    }


class SceneSamples(BaseSamples):
    """Images uint8 [n, 3, S, S], labels int64 [n]; `read_maps` reads the maps when they are first wanted."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str] | None,
        note: str,
        read_maps: Callable[[], Maps],
        rows: Tensor | None = None,
    ) -> None:
        self.images, self.labels, self.classes, self.note = images, labels, classes, note
        self.read_maps = read_maps
        self.rows = torch.arange(len(images)) if rows is None else rows
        """Where each sample stands in the maps."""
        self._maps: Maps | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        row = int(self.rows[index])
        maps = self.maps()
        targets = {
            "depth": maps["depth"][row].float(),
            "ids": maps["ids"][row].long(),
            "shape": maps["shape"][row].long(),
        }
        return Sample({"image": self.images[index]}, targets=targets, label=int(self.labels[index]))

    def maps(self) -> Maps:
        """The maps of the whole split, by name."""
        if self._maps is None:
            self._maps = self.read_maps()
        return self._maps

    def tensors(self) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, S, S] and int64 [n]."""
        return self.images, self.labels

    def columns(self) -> Mapping[str, Tensor]:
        """What batches for training hold: images and labels."""
        return {"views.image": self.images, "label": self.labels}

    def class_numbers(self) -> Indices:
        """int64 [n]: the labels."""
        return self.labels.numpy()

    def take(self, index: Indices, note: str) -> SceneSamples:
        """A copy of the samples at these positions."""
        at = torch.from_numpy(index)
        return SceneSamples(
            self.images[at], self.labels[at], self.classes, note, self.read_maps, self.rows[at]
        )
