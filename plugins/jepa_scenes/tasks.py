"""Sources with two sets of labels, `count` and `distance`, each a table of probes.

What is unusual: count and distance are correlated (the more objects, the nearer the nearest), so the table of
`distance` has a row of what the true count alone lets a probe guess.

Axes: n samples of a split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.data.samples import BaseSamples
from jepa_core.errors import unknown
from jepa_core.evaluate import FeatureMap
from jepa_core.protocols import FeatureModel, Role
from jepa_scenes.labels import COUNT_CLASSES, DISTANCE_CLASSES, count_class, distance_class

TaskName = Literal["count", "distance"]
CLASSES: Mapping[str, Sequence[str]] = {"count": COUNT_CLASSES, "distance": DISTANCE_CLASSES}
"""Names of the classes of each task."""


@dataclass(frozen=True)
class Truth:
    """Labels of a split: int64 [n] of each task."""

    count: Tensor
    distance: Tensor

    @classmethod
    def of(
        cls, counts: Sequence[int], distances: Sequence[float], where: Sequence[str] | None = None
    ) -> Truth:
        """From the number of objects and the least depth in each scene; `where` names the scenes.

        Raises UserError, naming the scene, for a value that is of no class.
        """
        names = where or [f"scene {number}" for number in range(len(counts))]
        pairs = [
            (count_class(count, name), distance_class(distance, name))
            for count, distance, name in zip(counts, distances, names, strict=True)
        ]
        labels = torch.from_numpy(np.array(pairs, dtype=np.int64).reshape(-1, 2))
        return cls(labels[:, 0], labels[:, 1])

    def labels(self, task: str) -> Tensor:
        """int64 [n]. Raises UserError for an unknown task."""
        if task not in CLASSES:
            raise unknown("task", task, CLASSES)
        values: Tensor = getattr(self, task)
        return values


class CountAndDistance(ABC):
    """A source of scenes whose `count` and `distance` are known (`Tasks`, `KnownValues`)."""

    @abstractmethod
    def truth(self, split: str) -> Truth:
        """Labels of a split's samples, in their order. Raises UserError as `Source.split`."""

    @abstractmethod
    def with_labels(self, split: str, labels: Tensor, classes: Sequence[str]) -> BaseSamples:
        """The split's images with these labels."""

    def tasks(self) -> Sequence[str]:
        """`count` and `distance`."""
        return list(CLASSES)

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> BaseSamples:
        """A split's images with the labels of a task. Raises UserError for an unknown one."""
        return self.with_labels(split, self.truth(split).labels(task), CLASSES[task])

    def controls(self, model: FeatureModel, role: Role, tokens: bool) -> Sequence[FeatureMap]:
        """None that could be made of the image."""
        return ()

    def known_values(self, task: str, split: str) -> Mapping[str, Tensor]:
        """For `distance` the true count, as one number for each class, float32 [n, 8]."""
        if task != "distance":
            return {}
        return {"the true count": F.one_hot(self.truth(split).count, len(COUNT_CLASSES)).float()}
