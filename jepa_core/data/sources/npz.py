"""`npz`: arrays in one .npz file.

Either `images` (and `labels`), or `train_images`, `train_labels`, `val_images`, … (the layout of
MedMNIST). Images are uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3], labels integers [n] or [n, 1].

Axes: n samples, h, w pixels, c channels.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from jepa_core.data.cache import expand_home
from jepa_core.data.npz_file import array_names, list_names, read_array
from jepa_core.data.samples import ArraySamples
from jepa_core.data.splits import SPLITS, HeldOutSettings, SplitSource
from jepa_core.errors import UserError

Array = np.ndarray[Any, Any]

MOST_CLASSES = 1_000_000
"""Numbers from here on are taken for something else than classes, such as ids of the images."""


class NpzSource(SplitSource):
    """Arrays of images and labels in a .npz file."""

    class Config(HeldOutSettings):
        """Settings of the .npz file."""

        path: Path
        """The .npz file, with `images` and `labels`, or `train_images`, `train_labels`, `val_images`, …"""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.path = expand_home(config.path)

    def own_splits(self) -> Collection[str]:
        """Those with arrays of their own."""
        names = self._names()
        own = [split for split in SPLITS if f"{split}_images" in names]
        if "images" not in names and "train" not in own:
            raise UserError(
                f"{self.path} has no array 'images' or 'train_images'; arrays in it: {list_names(names)}"
            )
        return own if "train" in own else ["train"]

    def load(self, name: str) -> ArraySamples:
        """The arrays of one split. Raises UserError for shapes or types that are not images."""
        names = self._names()
        prefix = f"{name}_" if f"{name}_images" in names else ""
        key, of = f"{prefix}labels", f" of {self.path}"
        images = channels_first(read_array(self.path, f"{prefix}images"), f"array '{prefix}images'{of}")
        labels = read_array(self.path, key) if key in names else np.full(len(images), -1)
        numbers = label_numbers(labels, len(images), f"array {key!r}{of}")
        return ArraySamples(images, numbers, class_numbers(numbers), f"{prefix}images of {self.path}")

    def _names(self) -> list[str]:
        """Names of the arrays in the file."""
        if self.path.is_dir():
            raise UserError(
                f"data.path {str(self.path)!r} is a folder; expected a .npz file (for images: "
                "data.name=folder)"
            )
        try:
            return array_names(self.path, "data.path ")
        except FileNotFoundError:
            raise UserError(f"data.path {str(self.path)!r} does not exist") from None


def channels_first(images: Array, name: str) -> Tensor:
    """uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3] as uint8 [n, 3, h, w], a view.

    Raises UserError, which begins with the `name`, for other types and shapes.
    """
    if images.dtype != np.uint8:
        raise UserError(f"{name} is {images.dtype}; expected uint8 (0 to 255)")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"{name} is {list(images.shape)}; expected [n, h, w], [n, h, w, 1] or [n, h, w, 3], channels last"
        )
    if 0 in images.shape:
        raise UserError(f"{name} is {list(images.shape)}: it holds no images")
    return rearrange(torch.from_numpy(images), "n h w c -> n c h w").expand(-1, 3, -1, -1)


def label_numbers(labels: Array, count: int, name: str) -> Tensor:
    """Integers [n] or [n, 1], -1 for none, as int64 [n].

    Raises UserError, which begins with the `name`, for several labels an image, a misfit, or numbers that
    cannot be classes.
    """
    if labels.dtype.kind not in "iub":
        raise UserError(f"{name} is {labels.dtype}; expected whole numbers")
    if labels.size != count or labels.ndim not in (1, 2):
        raise UserError(f"{name} is {list(labels.shape)}; expected one label for each of {count} images")
    least, most = int(labels.min()), int(labels.max())
    if least < -1 or most >= MOST_CLASSES:
        raise UserError(
            f"{name} holds {least} to {most}; expected classes numbered from 0, below {MOST_CLASSES:,}, "
            "and -1 where there is no label"
        )
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def class_numbers(labels: Tensor) -> list[str] | None:
    """Class names "0", "1", …; None where there are no labels."""
    most = int(labels.max())
    return None if most < 0 else [str(number) for number in range(most + 1)]
