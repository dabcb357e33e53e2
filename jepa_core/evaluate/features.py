"""Frozen features of a data split, for the probes.

What is unusual: every kind of feature (trained encoder, random twin, raw pixels) is a `FeatureMap` with
a description of its own, and `extract` asks all of them in one pass over the data, so that the rows of a
probe table have seen the same images and each image is read once. Features are taken under `no_grad`, not
in inference mode: what a source or an encoder caches at its first use has to serve training afterwards.

Axes: B images of a batch, n images of a split, N tokens of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError

PIXEL_SIDE = 32
"""Raw-pixel features are taken at no more than this many pixels a side."""

Role = Literal["target", "context"]


class Progress(Protocol):
    """What a progress bar offers to long work; the caller owns its looks."""

    def begin(self, what: str, total: int | None) -> None:
        """A new piece of work starts: its name, and how many images it has where that is known."""
        ...

    def advance(self, n: int) -> None:
        """`n` more images are done."""
        ...


class NoProgress:
    """A progress bar that shows nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """Shows nothing."""

    def advance(self, n: int) -> None:
        """Shows nothing."""


class FeatureModel(Protocol):
    """The one method of the engine that is used here."""

    def features(
        self, images: Tensor, role: Role = "target", pool: Literal["mean"] | None = "mean"
    ) -> Tensor:
        """[B, D] of images [B, C, H, W]."""
        ...


@dataclass(frozen=True)
class FeatureMap:
    """One way from images [B, C, H, W] to features [B, D], with the words that say what it is."""

    name: str
    """Short, unique in a table: `trained`."""
    description: str
    """Which network, which role, which pooling: `target encoder, mean over tokens`."""
    encode: Callable[[Tensor], Tensor]
    module: nn.Module | None = None
    """Put in evaluation mode while features are taken, and back afterwards."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one split: float32 [n, D] and labels int64 [n], on the CPU."""

    values: Tensor
    labels: Tensor


def model_features(model: FeatureModel, name: str, role: Role = "target") -> FeatureMap:
    """Mean-pooled features of `model`'s target or context (online) encoder.

    The I-JEPA paper (arXiv 2301.08243, App. A.1) evaluates the average-pooled target encoder.
    """

    def encode(images: Tensor) -> Tensor:
        return model.features(images, role=role, pool="mean")

    module = model if isinstance(model, nn.Module) else None
    return FeatureMap(name, f"{role} encoder, mean over tokens", encode, module)


def raw_pixels(view_shape: Sequence[int], name: str = "raw pixels") -> FeatureMap:
    """The normalised pixels themselves, [B, C·h·w]: what a probe gets without any network.

    Sides longer than `PIXEL_SIDE` are averaged over areas down to it, and the description says so.
    Raises UserError for views that are not images `(C, H, W)`.
    """
    if len(view_shape) != 3:
        raise UserError(f"raw pixels are taken of images (C, H, W); got views of shape {tuple(view_shape)}")
    sides = min(view_shape[1], PIXEL_SIDE), min(view_shape[2], PIXEL_SIDE)
    size = f"{sides[0]}×{sides[1]}×{view_shape[0]}"
    shrunk = sides != tuple(view_shape[1:])
    description = f"{size} pixels" + (
        f", averaged down from {view_shape[1]}×{view_shape[2]}" if shrunk else ""
    )

    def encode(images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, sides).flatten(1)

    return FeatureMap(name, description, encode)


@torch.no_grad()
def extract(
    maps: Sequence[FeatureMap],
    loader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> list[Features]:
    """Features of every map over `loader`, which yields (images [B, C, H, W], labels [B]).

    `dtype` is the autocast type (None: none); features come back in float32 on the CPU.
    Raises UserError where the loader is empty or a map returns anything but [B, D].
    """
    progress = progress or NoProgress()
    chunks: list[list[Tensor]] = [[] for _ in maps]
    labels: list[Tensor] = []
    with _evaluation_mode(maps), torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
        for images, label in loader:
            on_device = images.to(device, non_blocking=True)
            for feature_map, chunk in zip(maps, chunks, strict=True):
                chunk.append(_encode(feature_map, on_device))
            labels.append(label)
            progress.advance(len(images))
    if not labels:
        raise UserError("no images to take features of: the split is empty")
    every_label = torch.cat(labels).long().cpu()
    return [Features(torch.cat(chunk), every_label) for chunk in chunks]


def _encode(feature_map: FeatureMap, images: Tensor) -> Tensor:
    values = feature_map.encode(images)
    if values.dim() != 2 or len(values) != len(images):
        raise UserError(
            f"{feature_map.name!r} must give features [B, D], B = {len(images)}; got {list(values.shape)}"
        )
    return values.float().cpu()


@contextmanager
def _evaluation_mode(maps: Sequence[FeatureMap]) -> Iterator[None]:
    """Every submodule in evaluation mode, and afterwards each as it was."""
    with ExitStack() as after:
        for module in (m.module for m in maps if m.module is not None):
            for part in module.modules():
                after.callback(setattr, part, "training", part.training)
            module.eval()
        yield
