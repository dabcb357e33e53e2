"""One split of a source, as the loaders see it: in memory, as files, or as a selection of another.

Axes: n samples, h, w pixels.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from jepa_core.data.images import read_image
from jepa_core.protocols import Recording

Indices = np.ndarray[Any, np.dtype[np.int64]]


@runtime_checkable
class InMemory(Protocol):
    """Samples that are there as one tensor; loaders then transform whole batches at once."""

    def tensors(self) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, h, w] and int64 [n]."""
        ...


class BaseSamples(ABC):
    """`jepa_core.protocols.Samples` with what the sources here need: notes, and selections of a part."""

    classes: Sequence[str] | None = None
    """Names of the classes, or None where there are no labels."""
    note: str = ""
    """Where the samples come from and how the split was chosen, for people."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Image | Tensor | Recording, int]: ...

    def keys(self) -> Sequence[str]:
        """A name for each sample; those of a held-out split are chosen by it."""
        return [str(index) for index in range(len(self))]

    def take(self, index: Indices, note: str) -> BaseSamples:
        """The samples at these positions, in this order."""
        return Selection(self, index, note)


class Selection(BaseSamples):
    """Some samples of another split."""

    def __init__(self, whole: BaseSamples, index: Indices, note: str) -> None:
        self.whole, self.index, self.note = whole, index, note
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[Image | Tensor | Recording, int]:
        return self.whole[int(self.index[index])]

    def keys(self) -> Sequence[str]:
        """The names these samples have in the whole."""
        names = self.whole.keys()
        return [names[index] for index in self.index]


class Files(BaseSamples):
    """Files with labels. Paths lie in one byte array, which worker processes share uncopied."""

    def __init__(
        self, root: str, files: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None, note: str
    ) -> None:
        self.root, self.classes, self.note = root, classes, note
        self.files = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        """The whole path of a file."""
        return os.path.join(self.root, os.fsdecode(self.files[index]))

    def keys(self) -> Sequence[str]:
        """Paths relative to the root: a held-out split stays the same when the folder moves."""
        return [os.fsdecode(file) for file in self.files]


class ImageFiles(Files):
    """Image files with labels."""

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read_image(self.path(index)), int(self.labels[index])


class ArraySamples(BaseSamples):
    """Images of one size in memory: uint8 [n, 3, h, w] (any strides) and int64 labels [n], -1 for none."""

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str] | None, note: str) -> None:
        assert images.dtype == torch.uint8
        assert images.shape[1:2] == (3,)
        assert labels.dtype == torch.int64
        assert labels.shape == images.shape[:1]
        self.images, self.labels, self.classes, self.note = images, labels, classes, note

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image | Tensor, int]:
        return self.images[index], int(self.labels[index])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, h, w] and int64 [n]."""
        return self.images, self.labels

    def take(self, index: Indices, note: str) -> ArraySamples:
        """A copy of the samples at these positions."""
        rows = torch.from_numpy(index)
        return ArraySamples(self.images[rows], self.labels[rows], self.classes, note)
