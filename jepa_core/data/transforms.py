"""What happens to an image before the model sees it, one at a time, with torchvision v2.

Takes RGB PIL images and uint8 tensors [3, h, w]; gives normalised float32 [3, H, W]. Randomness is
torch's global one: the loader seeds it for each step. `batched` does the same to whole arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from jepa_core.data import colours
from jepa_core.data.settings import TransformSettings
from jepa_core.errors import UserError


def train_transform(settings: TransformSettings, view_shape: Sequence[int]) -> v2.Compose:
    """Random resized crop to `view_shape` (3, H, W), then flip, colour and blur where they are on."""
    height, width = image_size(view_shape)
    steps: list[nn.Module] = [
        v2.RandomResizedCrop(
            (height, width),
            scale=settings.crop_scale,
            ratio=settings.crop_ratio,
            interpolation=mode(settings),
            antialias=True,
        )
    ]
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.colour_jitter:
        jitter = v2.ColorJitter(*colours.reach(settings.colour_jitter))
        steps += [v2.RandomApply([jitter], colours.JITTERED), v2.RandomGrayscale(colours.GREY)]
    if settings.blur:
        gaussian = v2.GaussianBlur(colours.kernel_size(height, width), colours.SIGMA)
        steps.append(v2.RandomApply([gaussian], settings.blur))
    return v2.Compose([*steps, *_normalise(settings)])


def eval_transform(settings: TransformSettings, view_shape: Sequence[int]) -> v2.Compose:
    """Resize and centre crop to `view_shape` (3, H, W); also takes batches, uint8 [B, 3, h, w]."""
    height, width = image_size(view_shape)
    cover = Cover(round(height / settings.eval_crop), round(width / settings.eval_crop), mode(settings))
    return v2.Compose([cover, v2.CenterCrop((height, width)), *_normalise(settings)])


class Cover(nn.Module):
    """Resizes to the smallest size, aspect kept, that covers `height` x `width`."""

    def __init__(self, height: int, width: int, interpolation: v2.InterpolationMode) -> None:
        super().__init__()
        self.height, self.width, self.interpolation = height, width, interpolation

    def forward(self, image: Any) -> Any:
        """A PIL image or a tensor [..., h, w], resized."""
        height, width = F.get_size(image)
        scale = max(self.height / height, self.width / width)
        size = [max(self.height, round(height * scale)), max(self.width, round(width * scale))]
        return F.resize(image, size, interpolation=self.interpolation, antialias=True)


def image_size(view_shape: Sequence[int]) -> tuple[int, int]:
    """(H, W) of a view (3, H, W). Raises UserError for another rank or number of channels."""
    if len(view_shape) != 3 or view_shape[0] != 3 or math.prod(view_shape) <= 0:
        raise UserError(
            f"image sources give views of shape (3, H, W); the encoder asks for {tuple(view_shape)}"
        )
    return view_shape[1], view_shape[2]


def mode(settings: TransformSettings) -> v2.InterpolationMode:
    """torchvision's name of the interpolation."""
    return v2.InterpolationMode(settings.interpolation)


def _normalise(settings: TransformSettings) -> list[nn.Module]:
    to_float = v2.ToDtype(torch.float32, scale=True)
    return [v2.ToImage(), to_float, v2.Normalize(list(settings.mean), list(settings.std)), v2.ToPureTensor()]
