"""Pooled features and thumbnails of a split's images, taken in one pass; features of single patches.

Images are those that an evaluation sees (resized, centre-cropped), evenly spaced over a split. Features are
in fp32, whatever the run trained in.

Axes: n images, D width, N tokens of the grid, C channels, h × w pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.data.eval_batches import eval_loader
from jepa_core.errors import UserError
from jepa_core.evaluate.features import extract, model_features
from jepa_core.jepa import JEPA
from jepa_core.plots.clips import middle_frames
from jepa_core.plots.sheets import unnormalise
from jepa_core.protocols import Role, Samples
from jepa_core.runtime.progress import Progress
from jepa_core.settings.sections import TransformSettings

THUMB = 96
"""Pixels of a thumbnail's longer side, at most."""
BATCH = 128


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the encoder makes of some images of a split."""

    split: str
    values: Tensor
    """Mean-pooled features, float32 [n, D]."""
    labels: Tensor
    """int64 [n]; negative for none."""
    thumbs: Tensor
    """uint8 [n, 3, h, w]."""
    classes: Sequence[str] | None

    def class_of(self, index: int) -> str | None:
        """The name of an image's class; None where it has no label, or one that has no name."""
        label = int(self.labels[index])
        return self.classes[label] if self.classes and 0 <= label < len(self.classes) else None

    @property
    def unnamed_labels(self) -> list[int]:
        """Labels for which the data name no class, in order."""
        count = len(self.classes or ())
        return sorted({int(label) for label in self.labels if int(label) >= count}) if self.classes else []


def image_features(
    model: JEPA,
    samples: Samples,
    transform: TransformSettings,
    split: str,
    role: Role,
    limit: int,
    progress: Progress,
) -> ImageFeatures:
    """Features and thumbnails of `limit` evenly spaced images.

    Raises UserError where none can be read, and where the features are not finite.
    """
    loader = eval_loader(samples, transform, _view_shape(model, role), BATCH, 0, limit)
    progress.begin(f"features of the {split} split", loader.images)
    thumbs: list[Tensor] = []
    device = next(model.parameters()).device
    batches = _with_thumbs(loader, transform, thumbs)
    features = extract([model_features(model, "trained", role)], batches, device, None, progress)[0]
    check_finite(features.values)
    return ImageFeatures(split, features.values, features.labels, torch.cat(thumbs), samples.classes)


def check_finite(features: Tensor) -> None:
    """Raises UserError for features that are not finite."""
    if not torch.isfinite(features).all():
        raise UserError("the features are not finite: the encoder has diverged")


def _with_thumbs(
    loader: Iterable[tuple[Tensor, Tensor]], transform: TransformSettings, thumbs: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches; the thumbnails of each are appended to `thumbs`."""
    for images, labels in loader:
        thumbs.append(_thumbs(unnormalise(images, transform.mean, transform.std)))
        yield images, labels


def _thumbs(images: Tensor) -> Tensor:
    """uint8 [B, 3, h, w] of images [B, C, h, w] from 0 to 1, or of the middle frames of clips."""
    images = middle_frames(images, 1) if images.dim() == 5 else images
    share = THUMB / max(images.shape[2:])
    if share < 1:
        size = [max(1, round(side * share)) for side in images.shape[2:]]
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)


def _view_shape(model: JEPA, role: Role) -> Sequence[int]:
    """The shape of the first view. Raises UserError for the role of an encoder of another one."""
    view = model.view_of(role)
    if view is not None:
        raise UserError(f"pictures are of the first view, and the {role} encoder reads the view {view!r}")
    shape: Sequence[int] = model.encoder.view_shape()
    return shape


def few_images(
    model: JEPA, samples: Samples, transform: TransformSettings, count: int, role: Role = "target"
) -> Tensor:
    """`count` evenly spaced images, normalised, float32 [count, C, h, w]; clips [count, C, T, h, w].

    Raises UserError for the role of an encoder that reads another view than the first.
    """
    loader = eval_loader(samples, transform, _view_shape(model, role), count, 0, count)
    images: Tensor = next(iter(loader))[0]
    return images


@torch.no_grad()
def patch_features(model: JEPA, images: Tensor, role: Role) -> Tensor:
    """Features of every patch, float32 [n, N, D], after the encoder's final norm."""
    device = next(model.parameters()).device
    chunks = [model.features(part.to(device), role=role, pool=None) for part in images.split(BATCH)]
    return torch.cat(chunks).float().cpu()


def thumb_pixels(thumb: Tensor) -> np.ndarray:
    """uint8 [3, h, w] as [h, w, 3]."""
    pixels: np.ndarray = thumb.permute(1, 2, 0).contiguous().numpy()
    return pixels
