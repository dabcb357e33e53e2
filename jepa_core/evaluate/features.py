"""Frozen features of a data split, for the probes.

What is unusual: every kind of feature (trained encoder, random twin, raw pixels) is a `FeatureMap` with
a description of its own, and `extract` evaluates all of them in one pass over the data, so that the rows of
a probe table are of the same images and each image is read once. Features are taken under `no_grad`, not
in inference mode: what a source or an encoder caches at its first use has to serve training afterwards.

Axes: B samples of a batch, n samples of a split, N tokens of the grid, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.protocols import FeatureMap, FeatureModel, Role
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.roles import encoder_name
from jepa_core.types.packed import Packed

PIXEL_SIDE = 32
"""Raw-pixel features are taken at no more than this many pixels a side."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one split: float32 [n, D] and labels int64 [n], on the CPU."""

    values: Tensor
    labels: Tensor
    tokens: Tensor | None = None
    """Features of every token [n, N, D]; None unless they were asked for."""


def model_features(model: FeatureModel, name: str, role: Role = "target", tokens: bool = False) -> FeatureMap:
    """Features of a role's encoder of `model`: mean-pooled, or with `tokens` of every token.

    The I-JEPA paper (arXiv 2301.08243, App. A.1) evaluates the average-pooled target encoder.
    """

    def encode(images: Tensor) -> Tensor:
        return model.features(images, role=role, pool=None if tokens else "mean")

    module = model if isinstance(model, nn.Module) else None
    return FeatureMap(name, f"{role} encoder, mean over tokens", encode, module)


def raw_pixels(view_shape: Sequence[int], name: str = "raw pixels") -> FeatureMap:
    """The normalised pixels as features: what a probe scores without any network.

    Of images (C, H, W) they are one vector [B, C·h·w], of clips (C, T, H, W) a token a frame, [B, T, C·h·w].
    Sides longer than `PIXEL_SIDE`, of clips than a share of it (all frames together have PIXEL_SIDE²
    places), are averaged over areas down to it, and the description says so.
    Raises UserError for views of another rank.
    """
    if len(view_shape) not in (3, 4):
        raise UserError(
            f"raw pixels are taken of images (C, H, W) and clips (C, T, H, W); got views {tuple(view_shape)}"
        )
    frames, (height, width) = view_shape[1:-2], view_shape[-2:]
    most = int(PIXEL_SIDE / math.sqrt(math.prod(frames)))
    sides = min(height, most), min(width, most)
    size = "×".join(str(length) for length in (*frames, *sides, view_shape[0]))
    shrunk = f", averaged down from {height}×{width}" if sides != (height, width) else ""

    def encode(views: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(views.flatten(1, -3), sides)
        return rearrange(small, "b (c t) h w -> b t (c h w)", c=view_shape[0]) if frames else small.flatten(1)

    return FeatureMap(name, f"{size} pixels{shrunk}", encode, pool="flatten")


def raw_values(vocabulary: int | None = None) -> FeatureMap:
    """A text, a vector or a sequence as features, without any network: what `raw pixels` is to an image.

    Of ids the share of each number of the vocabulary; of vectors their elements, of sequences their mean.
    """

    def encode(view: Tensor | Packed) -> Tensor:
        sequences = view.split() if isinstance(view, Packed) else list(view)
        if vocabulary is None:
            return torch.stack(
                [part.float() if part.dim() == 1 else part.float().mean(0) for part in sequences]
            )
        return torch.stack([torch.bincount(ids, minlength=vocabulary) / len(ids) for ids in sequences])

    name = "raw values" if vocabulary is None else "token counts"
    what = "the values themselves" if vocabulary is None else f"shares of {vocabulary:,} tokens"
    return FeatureMap(name, what, encode)


def raw_features(model: JEPA, role: Role, view_shape: Sequence[int]) -> FeatureMap:
    """What the encoder of a role reads, as features without any network: pixels, values or token counts."""
    name = encoder_name(role)
    field = model.fields.get(f"views.{name}") if name else None
    if field is None or field.kind in ("image", "clip"):
        return raw_pixels(view_shape)
    return raw_values(field.vocabulary if field.kind == "ids" else None)


@torch.no_grad()
def extract(
    maps: Sequence[FeatureMap],
    loader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    tokens: bool = False,
) -> list[Features]:
    """Features of every map over `loader`, which yields (views [B, ...], labels [B]).

    `dtype` is the autocast type (None: none); features come back in float32 on the CPU. With `tokens` those
    of every token come too, one for a map that gives vectors; they are held in memory.
    Raises UserError where the loader is empty, labels are no whole numbers, or a map returns anything but
    [B, D] or [B, N, D].
    """
    progress = progress or NoProgress()
    chunks: list[list[Tensor]] = [[] for _ in maps]
    labels: list[Tensor] = []
    with _evaluation_mode(maps), torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
        for images, label in loader:
            on_device = images.to(device, non_blocking=True)
            for feature_map, chunk in zip(maps, chunks, strict=True):
                values = _encode(feature_map, on_device)
                chunk.append(values if tokens else feature_map.pool_tokens(values))
            labels.append(label)
            progress.advance(len(images))
    if not labels:
        raise UserError("no images to take features of: the split is empty")
    every_label = torch.cat(labels).cpu()
    if (broken := every_label[every_label != every_label.long()]).numel():
        raise UserError(f"labels are whole numbers; got {broken[0].item()}")
    return [
        _features(m, torch.cat(chunk), every_label.long(), tokens)
        for m, chunk in zip(maps, chunks, strict=True)
    ]


def _features(feature_map: FeatureMap, values: Tensor, labels: Tensor, tokens: bool) -> Features:
    of_tokens = (values if values.dim() == 3 else values[:, None]) if tokens else None
    return Features(feature_map.pool_tokens(values), labels, of_tokens)


def _encode(feature_map: FeatureMap, images: Tensor) -> Tensor:
    values = feature_map.encode(images)
    if values.dim() not in (2, 3) or len(values) != len(images):
        raise UserError(
            f"{feature_map.name!r} must give features [B, D] or [B, N, D], B = {len(images)}; "
            f"got {list(values.shape)}"
        )
    return values.float().cpu()


@contextmanager
def _evaluation_mode(maps: Sequence[FeatureMap]) -> Iterator[None]:
    """While it is entered, every submodule is in evaluation mode; afterwards each is in its former mode."""
    with ExitStack() as after:
        for module in (m.module for m in maps if m.module is not None):
            for part in module.modules():
                after.callback(setattr, part, "training", part.training)
            module.eval()
        yield
