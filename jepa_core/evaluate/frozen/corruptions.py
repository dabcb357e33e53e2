"""Corruptions of images, computed here: noise, blur, contrast, brightness, JPEG, in five severities each.

In the spirit of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv 1903.12261): five of its kinds, with strengths
on the scale of those for 32-pixel images. They are not its files: those were made once, with other code and
on the original images; these are applied to the encoder's input after resizing and cropping.

Axes: B images, C = 3 channels of 0 to 1, H × W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from jepa_core.data.images import open_image

SEVERITIES = 5
REFERENCE_SIDE = 32
"""Pixels a side for which the widths of the blur are given; they grow with larger images."""

Corrupt = Callable[[Tensor, float, Generator], Tensor]
"""Of images [B, 3, H, W] in 0 to 1, with a strength."""


def add_noise(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Gaussian noise of this standard deviation."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return images + deviation * noise


def blur(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    """Gaussian blur; sigma in pixels of an image `REFERENCE_SIDE` pixels high."""
    sigma *= images.shape[-2] / REFERENCE_SIDE
    radius = max(1, round(3 * sigma))
    places = torch.arange(-radius, radius + 1, device=images.device)
    kernel = (-(places.float() ** 2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1)
    for shape, padding in (
        ((-1, 1, 1, 2 * radius + 1), (radius, radius, 0, 0)),
        ((-1, 1, 2 * radius + 1, 1), (0, 0, radius, radius)),
    ):
        padded = F.pad(images, padding, mode="replicate")
        images = F.conv2d(padded, kernel.reshape(shape), groups=images.shape[1])
    return images


def reduce_contrast(images: Tensor, share: float, generator: Generator) -> Tensor:
    """The share of the contrast that is left around the mean of each image's channels."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + share * (images - mean)


def brighten(images: Tensor, more: float, generator: Generator) -> Tensor:
    """Adds to the value (the largest channel) of each pixel, hue and saturation as they are."""
    value = images.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1e-6)), brighter)


def compress(images: Tensor, quality: float, generator: Generator) -> Tensor:
    """Each image through a JPEG of this quality (of 1 to 100)."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    read = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=int(quality))
        read.append(np.asarray(open_image(file.getvalue())))
    return torch.from_numpy(np.stack(read)).movedim(-1, 1).to(images.device).float() / 255


CORRUPTIONS: Mapping[str, tuple[Corrupt, tuple[float, ...]]] = {
    "noise": (add_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "blur": (blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (reduce_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (brighten, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "jpeg": (compress, (80, 65, 58, 50, 40)),
}
"""(function, strength at each severity) of each kind: standard deviation, sigma in pixels, share of the
contrast that is left, added brightness, quality."""


def corrupt(images: Tensor, kind: str, severity: int, generator: Generator) -> Tensor:
    """Images [B, 3, H, W] in 0 to 1, corrupted and clipped to that range; `severity` is 1 to 5."""
    function, strengths = CORRUPTIONS[kind]
    return function(images.clamp(0, 1), strengths[severity - 1], generator).clamp(0, 1)
