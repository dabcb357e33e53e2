"""`npz`: arrays in one .npz file.

Either `images` (and `labels`), or `train_images`, `train_labels`, `val_images`, … (the layout of
MedMNIST). Images are uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3], labels integers [n] or [n, 1].

Axes: n samples, h, w pixels, c channels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from jepa_core.data.samples import ArraySamples
from jepa_core.data.settings import HeldOutSettings
from jepa_core.data.splits import SPLITS, SplitSource
from jepa_core.errors import UserError

Array = np.ndarray[Any, Any]


class NpzSource(SplitSource):
    """Arrays of images and labels in a .npz file."""

    class Config(HeldOutSettings):
        """Settings of the .npz file."""

        path: Path
        """The .npz file, with `images` and `labels`, or `train_images`, `train_labels`, `val_images`, …"""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.path = config.path.expanduser()

    def own_splits(self) -> Collection[str]:
        """Those with arrays of their own."""
        names = _names(self.path)
        own = [split for split in SPLITS if f"{split}_images" in names]
        if "images" not in names and "train" not in own:
            known = ", ".join(sorted(names)) or "none"
            raise UserError(f"{self.path} has no array 'images' or 'train_images'; arrays in it: {known}")
        return own if "train" in own else ["train"]

    def load(self, name: str) -> ArraySamples:
        """The arrays of one split. Raises UserError for shapes or types that are not images."""
        prefix = f"{name}_" if f"{name}_images" in _names(self.path) else ""
        images = channels_first(_array(self.path, f"{prefix}images"), f"{prefix}images")
        key = f"{prefix}labels"
        labels = _array(self.path, key) if key in _names(self.path) else np.full(len(images), -1)
        numbers = label_numbers(labels, len(images), key)
        return ArraySamples(images, numbers, numbered(numbers), f"{prefix}images of {self.path}")


def channels_first(images: Array, name: str) -> Tensor:
    """uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3] as uint8 [n, 3, h, w], a view. Raises UserError."""
    if images.dtype != np.uint8:
        raise UserError(f"array {name!r} is {images.dtype}; expected uint8 (0 to 255)")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"array {name!r} is {list(images.shape)}; expected [n, h, w], [n, h, w, 1] or [n, h, w, 3]"
        )
    if 0 in images.shape:
        raise UserError(f"array {name!r} is {list(images.shape)}: it holds no images")
    return rearrange(torch.from_numpy(images), "n h w c -> n c h w").expand(-1, 3, -1, -1)


def label_numbers(labels: Array, count: int, name: str) -> Tensor:
    """Integers [n] or [n, 1] as int64 [n]. Raises UserError for several labels an image, or a misfit."""
    if labels.dtype.kind not in "iub":
        raise UserError(f"array {name!r} is {labels.dtype}; expected whole numbers")
    if labels.size != count or labels.ndim not in (1, 2):
        raise UserError(
            f"array {name!r} is {list(labels.shape)}; expected one label for each of {count} images"
        )
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def numbered(labels: Tensor) -> list[str] | None:
    """Class names "0", "1", …; None where there are no labels."""
    most = int(labels.max())
    return None if most < 0 else [str(number) for number in range(most + 1)]


def _names(path: Path) -> list[str]:
    if path.is_dir():
        raise UserError(
            f"data.path {str(path)!r} is a folder; expected a .npz file (for images: data.name=folder)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except FileNotFoundError:
        raise UserError(f"data.path {str(path)!r} does not exist") from None
    except zipfile.BadZipFile:
        raise UserError(f"data.path {str(path)!r} is not a .npz file, or is damaged") from None


def _array(path: Path, name: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"array {name!r} of {path} cannot be read: {error}") from None
