"""Colour distortion and blur of a whole batch at once, every image with factors of its own.

Sample for sample these are torchvision's functions on float images, applied to [B, 3, H, W] with factors [B];
on 8-bit images torchvision rounds after each of them. Unusual: the four parts of a jitter come in an order of
each image's own, so at each place a part is applied to the images that have it there; and a hue is turned
without a detour by hue, saturation and value.

Axes: B images, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from jepa_core.settings.sections import TransformSettings

JITTERED, GREY = 0.8, 0.2
"""Shares of images that are jittered, and turned to grey (SimCLR, 2002.05709, appendix A)."""
LUMA = (0.2989, 0.587, 0.114)
"""Red's, green's and blue's share of an image's grey, as in torchvision."""
SIGMA = (0.1, 2.0)
"""Least and largest width of the blur in pixels."""
AROUND = 6
"""Length of the circle of hues: red at 0, green at 2, blue at 4."""


@dataclass(frozen=True)
class Jitter:
    """Which images are jittered, how, and which are turned to grey.

    `on`, `grey`: bool [B]. `factors`: float [4, B], those of brightness, contrast and saturation (1 changes
    nothing) and the turn of the hue (0 changes nothing, 1 is once round). `order`: int [B, 4], which of the
    four comes first, second, third, last.
    """

    on: Tensor
    factors: Tensor
    order: Tensor
    grey: Tensor


def reach(strength: float) -> tuple[float, float, float, float]:
    """Largest change of brightness, contrast, saturation and hue (.5 at most) at SimCLR's strength s."""
    return 0.8 * strength, 0.8 * strength, 0.8 * strength, min(0.5, 0.2 * strength)


def random_jitter(count: int, strength: float, generator: Generator) -> Jitter:
    """As torchvision's ColorJitter(*reach(strength)) in 80 % and RandomGrayscale in 20 % of images."""
    far = torch.tensor(reach(strength))[:, None]
    unchanged = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None]
    least = torch.cat([(unchanged - far)[:3].clamp(min=0), -far[3:]])
    chances = torch.rand(2, count, generator=generator)
    factors = least + (unchanged + far - least) * torch.rand(4, count, generator=generator)
    order = torch.rand(count, 4, generator=generator).argsort(1)
    return Jitter(chances[0] < JITTERED, factors, order, chances[1] < GREY)


def apply_jitter(images: Tensor, jitter: Jitter) -> Tensor:
    """The images [B, 3, H, W], values 0 to 1, with the jitter applied in place."""
    for place in range(4):
        for part, change in enumerate(PARTS):
            rows = (jitter.on & (jitter.order[:, place] == part)).nonzero()[:, 0]
            changed = change(images.index_select(0, rows), jitter.factors[part, rows, None, None, None])
            images.index_copy_(0, rows, changed)
    rows = jitter.grey.nonzero()[:, 0]
    return images.index_copy_(0, rows, grey(images.index_select(0, rows)).expand(-1, 3, -1, -1))


def grey(images: Tensor) -> Tensor:
    """Greyscale [B, 1, H, W] of colour images [B, 3, H, W]."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])[:, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with black: factor 0 is black, 1 the image, above 1 brighter."""
    return (images * factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the image's mean grey: factor 0 is that grey, 1 the image, above 1 more contrast."""
    return _blend(grey(images).mean((1, 2, 3), keepdim=True), images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the greyscale image: factor 0 is greyscale, 1 the image, above 1 more saturated."""
    return _blend(grey(images), images, factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Rotates each pixel's hue by `turn` (1 is a full circle); its largest and smallest channel stay.

    A channel is at its largest within 1 of its own place on the circle, at its least beyond 2, and falls
    in a line between.
    """
    red, green, blue = images.unbind(1)
    most, least = images.amax(1), images.amin(1)
    chroma = most - least
    of_blue = torch.where(most == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    at = torch.where(most == red, green - blue, of_blue).div_(chroma + (chroma == 0))
    places = torch.tensor([0.0, 2.0, 4.0], dtype=images.dtype, device=images.device)[:, None, None]
    away = at[:, None] + AROUND * turn - places
    away = away.sub_((away / AROUND).round_().mul_(AROUND)).abs_()
    return (2 - away).clamp_(0, 1).mul_(chroma[:, None]).add_(least[:, None])


PARTS = (brightness, contrast, saturation, hue)


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).add_(base * (1 - factor)).clamp_(0, 1)


def kernel_size(height: int, width: int) -> int:
    """Pixels of the blur's kernel: a tenth of the shorter side, odd, 3 at least."""
    return max(3, min(height, width) // 10 // 2 * 2 + 1)


def random_blur(images: Tensor, settings: TransformSettings, generator: Generator) -> Tensor:
    """A share `settings.blur` of [B, 3, H, W] blurred, each by a Gaussian of its own width."""
    count, _, height, width = images.shape
    on, share = torch.rand(2, count, generator=generator)
    rows = (on < settings.blur).nonzero()[:, 0]
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * share[rows]
    return images.index_copy_(0, rows, blur(images.index_select(0, rows), sigma, kernel_size(height, width)))


def blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """[B, 3, H, W] blurred by Gaussians of width sigma [B] and `kernel` pixels, mirrored at borders."""
    tall, wide = (blur_matrix(side, sigma, kernel)[:, None] for side in images.shape[-2:])
    return tall @ images @ wide.mT


def blur_matrix(side: int, sigma: Tensor, kernel: int) -> Tensor:
    """Blur weights [B, side, side] of a line's pixels in each blurred pixel; rows sum to 1."""
    offsets = torch.arange(kernel) - kernel // 2
    weights = (-0.5 * (offsets / sigma[:, None]).square()).exp()
    weights = (weights / weights.sum(1, keepdim=True))[:, None].expand(-1, side, -1)
    source = (torch.arange(side)[:, None] + offsets).abs()
    source = (side - 1) - ((side - 1) - source).abs()
    matrix = torch.zeros(len(sigma), side, side)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), weights)
