"""What happens to an image or a clip before the model sees it, one at a time, with torchvision v2.

Takes RGB PIL images and uint8 tensors [3, h, w], and gives normalised float32 [3, H, W]. Of a `Recording`
it takes a window of frames, uint8 [T, 3, h, w], or takes such frames as they are; all get the same crop,
flip and colours, and come out as [3, T, H, W]. Randomness is torch's global one: the loader seeds it for
each step. `batched` does the same to whole arrays of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from jepa_core.data import colour_jitter as colours
from jepa_core.errors import UserError
from jepa_core.protocols import Recording
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.sample import Sample

VIEWS = {3: "image", 4: "video"}
"""Names of the views (3, H, W) and (3, T, H, W), by their rank."""


def train_transform(settings: TransformSettings, view_shape: Sequence[int]) -> v2.Compose:
    """Random window and random resized crop to `view_shape`, then flip, RandAugment, colour, blur if on."""
    height, width = image_size(view_shape)
    steps: list[nn.Module] = [
        Window(view_shape, random=True),
        v2.RandomResizedCrop(
            (height, width),
            scale=settings.crop_scale,
            ratio=settings.crop_ratio,
            interpolation=interpolation_mode(settings),
            antialias=True,
        ),
    ]
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.rand_augment:
        steps.append(rand_augment(settings))
    if settings.colour_jitter:
        jitter = v2.ColorJitter(*colours.reach(settings.colour_jitter))
        steps += [v2.RandomApply([jitter], colours.JITTERED), v2.RandomGrayscale(colours.GREY)]
    if settings.blur:
        gaussian = v2.GaussianBlur(colours.kernel_size(height, width), colours.SIGMA)
        steps.append(v2.RandomApply([gaussian], settings.blur))
    return v2.Compose([*steps, *_normalise(settings, view_shape)])


def rand_augment(settings: TransformSettings) -> v2.RandAugment:
    """RandAugment as the settings have it; what an operation uncovers has the colour that becomes 0."""
    return v2.RandAugment(
        settings.rand_augment,
        settings.rand_magnitude,
        interpolation=v2.InterpolationMode.BILINEAR,  # bicubic is there for Pillow images alone
        fill=[255 * value for value in settings.mean],
    )


def eval_transform(settings: TransformSettings, view_shape: Sequence[int]) -> v2.Compose:
    """Middle window, resize and centre crop to `view_shape`; also takes batches of images [B, 3, h, w]."""
    height, width = image_size(view_shape)
    cover = cover_of(settings, (height, width))
    window = Window(view_shape, random=False)
    return v2.Compose([window, cover, v2.CenterCrop((height, width)), *_normalise(settings, view_shape)])


def cover_of(settings: TransformSettings, size: tuple[int, int]) -> Cover:
    """The resize that comes before the evaluation's centre crop to `size` = (H, W)."""
    height, width = (round(side / settings.eval_crop) for side in size)
    return Cover(height, width, interpolation_mode(settings))


class Window(nn.Module):
    """The frames of a recording that a view (3, T, H, W) shows; a single one for a view (3, H, W).

    At random, or in the middle. Whatever is no recording passes through.
    """

    def __init__(self, view_shape: Sequence[int], random: bool) -> None:
        super().__init__()
        self.frames = view_shape[1] if len(view_shape) == 4 else None
        self.random = random

    def forward(self, sample: Any) -> Any:
        """A `Recording`'s frames, uint8 [T, 3, h, w] or [3, h, w]; any other sample as it is."""
        if not isinstance(sample, Recording):
            return self._check_frames(sample)
        starts = sample.starts(self.frames or 1)
        place = int(torch.randint(len(starts), ())) if self.random else len(starts) // 2
        window = sample.window(starts[place], self.frames or 1)
        frames = next(iter(window.views.values())) if isinstance(window, Sample) else window
        return frames if self.frames else frames[0]

    def _check_frames(self, sample: Any) -> Any:
        if self.frames and not (isinstance(sample, torch.Tensor) and sample.shape[:-3] == (self.frames,)):
            raise UserError(
                f"the encoder asks for clips of {self.frames} frames; these data are images, or clips of "
                "another length"
            )
        return sample


class Cover(nn.Module):
    """Resizes to the smallest size, aspect kept, that covers `height` x `width`."""

    def __init__(self, height: int, width: int, interpolation: v2.InterpolationMode) -> None:
        super().__init__()
        self.height, self.width, self.interpolation = height, width, interpolation

    def forward(self, image: Any) -> Any:
        """A PIL image or a tensor [..., h, w], resized."""
        size = list(self.size_of(*F.get_size(image)))
        return F.resize(image, size, interpolation=self.interpolation, antialias=True)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what an image of this size becomes."""
        scale = max(self.height / height, self.width / width)
        return max(self.height, round(height * scale)), max(self.width, round(width * scale))


def image_size(view_shape: Sequence[int]) -> tuple[int, int]:
    """(H, W) of a view (3, H, W) or (3, T, H, W). Raises UserError for another rank or number of channels."""
    if len(view_shape) not in VIEWS or view_shape[0] != 3 or math.prod(view_shape) <= 0:
        raise UserError(
            "sources give views of shape (3, H, W), or (3, T, H, W) of clips; the encoder asks for "
            f"{tuple(view_shape)}"
        )
    return view_shape[-2], view_shape[-1]


def interpolation_mode(settings: TransformSettings) -> v2.InterpolationMode:
    """The setting as torchvision's enumeration."""
    return v2.InterpolationMode(settings.interpolation)


def _normalise(settings: TransformSettings, view_shape: Sequence[int]) -> list[nn.Module]:
    to_float = v2.ToDtype(torch.float32, scale=True)
    normalise = v2.Normalize(list(settings.mean), list(settings.std))
    return [v2.ToImage(), to_float, normalise, v2.ToPureTensor(), ChannelsFirst(view_shape)]


class ChannelsFirst(nn.Module):
    """Frames [T, 3, H, W] as a view [3, T, H, W]; an image, or a batch of them, stays as it is."""

    def __init__(self, view_shape: Sequence[int]) -> None:
        super().__init__()
        self.clip = len(view_shape) == 4

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """The view with its channels as the first axis."""
        return view.movedim(-3, 0).contiguous() if self.clip else view
