"""Vectors of three coordinates with the coordinates as the first axis, and rays made of them.

Every operation is elementwise, so that no library of matrix products, whose sums depend on the processor and
on the number of threads, has a say in a pixel.

Axes: R rays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Vectors = np.ndarray[Any, np.dtype[np.float64]]
"""float64 [3], [3, R], or numbers [R]."""
Flags = np.ndarray[Any, np.dtype[np.bool_]]
"""bool [R]."""
Numbers = np.ndarray[Any, np.dtype[np.int64]]
"""int64 [R]."""


@dataclass(frozen=True)
class Rays:
    """Half lines: where they begin, float64 [3, R] or [3, 1] for all; directions of length 1 [3, R]."""

    origin: Vectors
    direction: Vectors

    def at(self, distance: Vectors) -> Vectors:
        """The points [3, R] at these distances [R]."""
        return self.origin + distance * self.direction

    def take(self, chosen: Flags | Numbers) -> Rays:
        """Some of the rays."""
        origin = self.origin if self.origin.shape[1] == 1 else self.origin[:, chosen]
        return Rays(origin, self.direction[:, chosen])

    def __len__(self) -> int:
        return self.direction.shape[1]


def dot(left: Vectors, right: Vectors) -> Vectors:
    """Products of vectors [3, ...]: [...]."""
    product: Vectors = left[0] * right[0] + left[1] * right[1] + left[2] * right[2]
    return product


def unit(vectors: Vectors) -> Vectors:
    """Vectors [D, ...] at length 1."""
    scaled: Vectors = vectors / np.sqrt((vectors * vectors).sum(0))
    return scaled


def column(vector: Vectors) -> Vectors:
    """[3] as [3, 1]."""
    return vector[:, None]
