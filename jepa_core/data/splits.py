"""Splits: the data's own where they have them, otherwise held out from the training images.

What is held out depends on `split_seed` and on each sample's name (a hash of both, ranked), so it is the
same on every machine, and stays nearly the same when images are added.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from jepa_core.data.images import MAX_PIXELS
from jepa_core.data.samples import BaseSamples, Indices
from jepa_core.errors import UserError, unknown
from jepa_core.settings.base import SourceSettings

SPLITS = ("train", "val", "test")

log = logging.getLogger("jepa")

Share = Annotated[float, Field(ge=0, lt=1)]


class HeldOutSettings(SourceSettings):
    """Sources that may come without a split for validation or test: it is then held out from training."""

    val_share: Share = 0.1
    """Share of the training images held out as `val`, where the data have no such split."""
    test_share: Share = 0.1
    """Share of the training images held out as `test`, where the data have no such split."""
    split_seed: int = 0
    """Which images are held out. It stands apart from the run's seed, so that runs can be compared."""

    @model_validator(mode="after")
    def _leaves_training_images(self) -> HeldOutSettings:
        if self.val_share + self.test_share >= 1:
            raise ValueError(f"val_share + test_share below 1; they are {self.val_share} + {self.test_share}")
        return self


class ImageFileSettings(HeldOutSettings):
    """Sources whose samples are image files."""

    max_pixels: int = Field(MAX_PIXELS, ge=1)
    """Most pixels of an image; a larger one is corrupt, and is not decoded (about 9 bytes a pixel)."""


def check_split(name: str) -> None:
    """Raises UserError for a split other than train, val, test."""
    if name not in SPLITS:
        raise unknown("split", name, SPLITS)


def hold_out(keys: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, Indices]:
    """Sample positions, ascending, of each split in `shares` (one at least), and of `train`, the rest."""
    ranks = [
        hashlib.blake2b(f"{seed}/{key}".encode(errors="surrogateescape"), digest_size=8).digest()
        for key in keys
    ]
    order = np.array(sorted(range(len(keys)), key=ranks.__getitem__), dtype=np.int64)
    parts, start = {}, 0
    for name, share in shares.items():
        count = max(1, round(share * len(keys)))
        parts[name] = np.sort(order[start : start + count])
        start += count
    return {**parts, "train": np.sort(order[start:])}


class SplitSource(ABC):
    """A source that says which splits the data have; those missing are held out from `train`."""

    Config: ClassVar[type[HeldOutSettings]]

    def __init__(self, config: HeldOutSettings) -> None:
        self.held_out = config

    @abstractmethod
    def own_splits(self) -> Collection[str]:
        """Those of train, val, test that the data have of their own (`train` always)."""

    @abstractmethod
    def load(self, name: str) -> BaseSamples:
        """One of the data's own splits, whole."""

    def split(self, name: str) -> BaseSamples:
        """`train`, `val` or `test`. Raises UserError where there is none, or too few images to hold out."""
        check_split(name)
        own = set(self.own_splits())
        shares = {"val": self.held_out.val_share, "test": self.held_out.test_share}
        missing = {part: share for part, share in shares.items() if part not in own and share > 0}
        if name in own and (name != "train" or not missing):
            return self.load(name)
        if name != "train" and name not in missing:
            raise UserError(
                f"the data have no split {name!r}, and data.{name}_share is 0, so none is held out"
            )
        return self._held_out(name, missing)

    def _held_out(self, name: str, missing: Mapping[str, float]) -> BaseSamples:
        train = self.load("train")
        parts = hold_out(train.keys(), missing, self.held_out.split_seed)
        if not all(len(part) for part in parts.values()):
            raise UserError(
                f"too few images ({len(train)}) to hold out {' and '.join(missing)} from; "
                "set data.val_share=0 data.test_share=0 to train on all of them"
            )
        sizes = ", ".join(f"{part} {len(index)}" for part, index in sorted(parts.items()))
        note = f"{train.note}; {' and '.join(missing)} held out from training ({sizes})"
        if name != "train":
            log.info("data: %s", note)
        return train.take(parts[name], note)
