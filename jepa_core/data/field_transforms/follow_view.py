"""Maps, which say something of each pixel of the first view: they are resized and cropped as it is.

Axes: h, w pixels before, H, W after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torchvision.transforms.v2.functional import center_crop

from jepa_core.data.field_transforms.base import InvalidValue, Transform, ValueTransform, as_numbers, fits
from jepa_core.data.field_transforms.crop import Crop
from jepa_core.data.transforms import Cover, cover_of, image_size
from jepa_core.errors import UserError
from jepa_core.types.sample import Field


class FollowView(ValueTransform):
    """A map of numbers or classes in the evaluation's resize and centre crop of the first view.

    A new pixel has the mean over its area, in which holes (0, NaN and infinite numbers, as depth sensors
    give where they see nothing) do not count; it is 0 where there is nothing but holes. Of classes, which
    are whole numbers, it has that of the nearest pixel.
    """

    kinds = ("map",)

    class Config(ValueTransform.Config):
        def check(self) -> None:
            """Raises UserError for another part than `targets`: training batches have no maps."""
            if self.part not in (None, "targets"):
                raise UserError(
                    f"a map cannot be of the part {self.part!r}: no random crop is followed, so maps are in "
                    "batches for evaluation only, as targets"
                )

    config: Config

    def __init__(self, config: Config, field: Field) -> None:
        super().__init__(config, field)
        self.cover: Cover | None = None

    def follow(self, view: Transform) -> None:
        """Takes the shape of the first view, and its resize where it is a `Crop`; else maps stay as is."""
        height, width = image_size(tuple(side or 0 for side in view.output.shape))
        self.output = self.field.changed(shape=(height, width))
        self.cover = cover_of(view.config, (height, width)) if isinstance(view, Crop) else None

    def __call__(self, value: Any, train: bool) -> Tensor:
        values = as_numbers(value, self.field)
        if values.is_floating_point():
            values = torch.where(values.isfinite(), values, 0.0)
        if self.cover is not None:
            height, width = (side or 0 for side in self.output.shape)
            size = self.cover.size_of(*values.shape)
            values = center_crop(resize_map(values, size)[None], [height, width])[0]
        if not fits(tuple(values.shape), self.output.shape or values.shape):
            raise InvalidValue(
                f"a map of {list(values.shape)} pixels; expected those of the view, {list(self.output.shape)}"
            )
        return values


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] as [H, W] of this size: means over areas without zeros, or of int64 the nearest pixels."""
    if tuple(values.shape) == size:
        return values
    if not values.is_floating_point():
        return interpolate(values[None, None].double(), size, mode="nearest-exact")[0, 0].long()
    total = adaptive_avg_pool2d(values[None], size)[0]
    share = adaptive_avg_pool2d((values != 0).float()[None], size)[0]
    return torch.where(share > 0, total / share, 0.0)
