"""One split of a source, as the loaders see it: in memory, as files, or as a selection of another.

`read_sample` and `read_tensors` are how loaders read: sources are plugins, so what they give is checked, and
what does not fit is one line that names the source and the sample.

Axes: n samples, h, w pixels.
"""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL.Image import Image
from torch import Generator, Tensor

from jepa_core.data.images import MAX_PIXELS, read_image, to_rgb
from jepa_core.data.packed_names import PackedNames
from jepa_core.errors import UserError
from jepa_core.protocols import Recording, Samples
from jepa_core.types.sample import Sample

Indices = np.ndarray[Any, np.dtype[np.int64]]


@runtime_checkable
class InMemory(Protocol):
    """Samples that are held in memory as one tensor; loaders transform them a batch at a time."""

    def tensors(self) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, h, w] and int64 [n]."""
        ...


@runtime_checkable
class OrderedSamples(Protocol):
    """What a `Samples` adds that decides in which order training sees it, such as a mix of sources."""

    def epoch_order(self, generator: Generator, together: int) -> Tensor:
        """int64 [n]: positions of the samples of one epoch, drawn from `generator` and from nothing else.

        `together` samples in a row are one step of all processes. n is the same in every epoch.
        """
        ...


@runtime_checkable
class ColumnSamples(Protocol):
    """What a `Samples` adds whose values are held in memory: loaders take them a batch at a time."""

    def columns(self) -> Mapping[str, Tensor | Sequence[Any]]:
        """All values by their places: tensors with n rows (images uint8 [n, 3, h, w]) or n entries (texts).

        `label` int64 [n] where there are classes. Must agree with `samples[i]`.
        """
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
    def __getitem__(self, index: int) -> tuple[Image | Tensor | Recording, int] | Sample: ...

    def keys(self) -> Sequence[str]:
        """A name for each sample; those of a held-out split are chosen by it."""
        return [str(index) for index in range(len(self))]

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Bytes that are stored of these samples, -1 for one that is gone; None where that is not known.

        By the names and sizes a resumed run knows its data again.
        """
        return None

    def class_numbers(self) -> Indices | None:
        """int64 [n]: the labels, -1 for none; None where they are known only with the samples themselves."""
        return None

    def take(self, index: Indices, note: str) -> BaseSamples:
        """The samples at these positions, in this order."""
        return Selection(self, index, note)


class Selection(BaseSamples):
    """Some samples of another split; its names, sizes and labels apart are known of `BaseSamples`."""

    def __init__(self, whole: Samples, index: Indices, note: str) -> None:
        self.whole, self.index, self.note = whole, index, note
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[Image | Tensor | Recording, int] | Sample:
        return self.whole[int(self.index[index])]

    def keys(self) -> Sequence[str]:
        """The names these samples have in the whole."""
        names = self.whole.keys() if isinstance(self.whole, BaseSamples) else range(len(self.whole))
        return [str(names[index]) for index in self.index]

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Those that these samples have in the whole."""
        places = [int(self.index[position]) for position in positions]
        return self.whole.sizes(places) if isinstance(self.whole, BaseSamples) else None

    def class_numbers(self) -> Indices | None:
        """Those that these samples have in the whole."""
        numbers = self.whole.class_numbers() if isinstance(self.whole, BaseSamples) else None
        return None if numbers is None else numbers[self.index]


class Files(BaseSamples):
    """Files below `root`, with labels; their paths are packed (see `packed_names`)."""

    def __init__(
        self, root: str, files: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None, note: str
    ) -> None:
        self.root, self.classes, self.note = root, classes, note
        self.names = PackedNames.of(files)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """The whole path of a file."""
        return os.path.join(self.root, self.names[index])

    def keys(self) -> Sequence[str]:
        """Paths relative to the root: a held-out split stays the same when the folder moves."""
        return list(self.names)

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Bytes of these files."""
        return [_size(self.path(position)) for position in positions]

    def class_numbers(self) -> Indices:
        """int64 [n]: the labels, -1 for none."""
        return self.labels


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


class ImageFiles(Files):
    """Image files with labels; those of more than `max_pixels` pixels are corrupt."""

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str] | None,
        note: str,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(root, files, labels, classes, note)
        self.max_pixels = max_pixels

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read_image(self.path(index), max_pixels=self.max_pixels), int(self.labels[index])


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

    def class_numbers(self) -> Indices:
        """int64 [n]: the labels, -1 for none."""
        return self.labels.numpy()

    def take(self, index: Indices, note: str) -> ArraySamples:
        """A copy of the samples at these positions."""
        rows = torch.from_numpy(index)
        return ArraySamples(self.images[rows], self.labels[rows], self.classes, note)


def read_sample(
    samples: Samples, index: int, view_shape: Sequence[int]
) -> tuple[Image | Tensor | Recording, int]:
    """A sample as `protocols.Samples` describes it, of several views the first, and its class; a Pillow image
    as RGB.

    Raises CorruptSample as the source does, and UserError, naming the source and the index, for what is no
    (image, label), an image of another type or shape, clips where `view_shape` is an image's (3, H, W), and
    a label that is no class.
    """
    sample: Any = samples[index]
    where = f"sample {index} of {source_of(samples)}"
    if isinstance(sample, Sample):
        sample = (next(iter(sample.views.values()), None), sample.label)
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        length = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
        raise UserError(f"{where} is a {type(sample).__name__}{length}; expected (image, label)")
    content, label = sample
    _check_content(content, where, view_shape)
    image = to_rgb(content) if isinstance(content, Image) else content
    return image, class_number(label, samples.classes, where)


def source_of(samples: Any) -> str:
    """Where samples come from, in a few words: the first part of their note, or their type."""
    return str(getattr(samples, "note", "")).partition(";")[0] or type(samples).__name__


def _check_content(content: Any, where: str, view_shape: Sequence[int]) -> None:
    expected = "expected a Pillow image, a uint8 tensor [3, h, w] or [T, 3, h, w], or a Recording"
    if isinstance(content, Tensor):
        shape = list(content.shape)
        if content.dtype != torch.uint8 or len(shape) not in (3, 4) or shape[-3] not in (1, 3):
            kind = str(content.dtype).removeprefix("torch.")
            raise UserError(f"{where} is a tensor of {kind} {shape}; {expected}")
        if 0 in shape:
            raise UserError(f"{where} is a tensor {shape}: it holds no pixels")
        if len(shape) > len(view_shape):
            raise UserError(
                f"{where} is a clip {shape}; the encoder takes images, views of {list(view_shape)}"
            )
    elif not isinstance(content, Image | Recording):
        raise UserError(f"{where} is a {type(content).__name__}; {expected}")


def class_number(label: Any, classes: Sequence[str] | None, where: str) -> int:
    """A label as a whole number: that of a class, or -1 for none.

    Raises UserError, which begins with `where` (`sample 3 of FOLDER`), for anything else.
    """
    count = None if classes is None else len(classes)
    known = (
        "a whole number from -1 on" if count is None else f"-1 (none), or one of {count} classes from 0 on"
    )
    try:
        number = operator.index(label)
    except TypeError:
        text = f"{label:.6g}" if isinstance(label, float) else f"a {type(label).__name__}"
        raise UserError(f"{where} has the label {text}; expected {known}") from None
    if number < -1 or number >= (2**63 if count is None else count):
        raise UserError(f"{where} has the label {number}; expected {known}")
    return number


def read_tensors(samples: InMemory) -> tuple[Tensor, Tensor]:
    """The images uint8 [n, 3, h, w] and labels int64 [n] of samples in memory.

    Raises UserError, naming the source, for other types and shapes, and for a label that is no class.
    """
    where = source_of(samples)
    images, labels = samples.tensors()
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(f"images of {where}: {kind} {list(images.shape)}; expected uint8 [n, 3, h, w]")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        kind = str(labels.dtype).removeprefix("torch.")
        raise UserError(
            f"labels of {where}: {kind} {list(labels.shape)}; expected int64, one for each of {len(images)} "
            "images"
        )
    classes = getattr(samples, "classes", None)
    if classes is not None:
        beyond = ((labels < -1) | (labels >= len(classes))).nonzero()
        if len(beyond):
            index = int(beyond[0])
            class_number(int(labels[index]), classes, f"sample {index} of {where}")
    return images, labels
