"""The crop as a transform of a named view: what `[transform]` does to the first, with settings of its own.

Axes: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL.Image import Image
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor

from jepa_core.data.field_transforms.base import InvalidValue, ValueTransform
from jepa_core.data.images import to_rgb
from jepa_core.data.transforms import eval_transform, image_size, train_transform
from jepa_core.errors import UserError
from jepa_core.protocols import Recording
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.sample import Field


class Crop(ValueTransform):
    """A random resized crop in training, the centre in evaluation; then the settings' colours and mean.

    Of a recording also a window of frames. The shape is that of the encoder's views, unless the settings
    say another one.
    """

    kinds = ("image", "clip")
    random = True

    class Config(ValueTransform.Config, TransformSettings):
        size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
        """Side in pixels, or (height, width); by default what the encoder of this view asks for."""
        frames: int | None = Setting(None, ge=1)
        """Frames of a clip; by default what the encoder of this view asks for."""

        def check(self) -> None:
            """Raises UserError for groups of crops, which are the first view's (`[transform.views]`)."""
            if self.views:
                raise UserError("a crop of a named view makes one view; groups stand in [transform.views]")

    config: Config

    def __init__(self, config: Config, field: Field) -> None:
        super().__init__(config, field)
        if config.frames is not None:  # known before the size, for other values are fitted to windows of it
            self.output = field.changed(kind="clip", shape=(3, config.frames, None, None))

    def set_view_shape(self, shape: Sequence[int]) -> None:
        """Takes the encoder's (3, H, W) or (3, T, H, W), where the settings do not say another one."""
        size, frames = self.config.size, self.config.frames
        height, width = shape[-2:] if size is None else (size if isinstance(size, tuple) else (size, size))
        of_clip = shape[1:-2] if frames is None else (frames,)
        full = (3, *of_clip, height, width)
        image_size(full)
        self.output = Field("clip" if len(full) == 4 else "image", full, rate=self.field.rate)
        self.__dict__.pop("_transforms", None)

    @cached_property
    def _transforms(self) -> tuple[Any, Any]:
        """(evaluation, training)."""
        if None in self.output.shape or not self.output.shape:
            raise UserError("the size of this crop is not known: no encoder reads it, and it has no size")
        shape = tuple(side for side in self.output.shape if side is not None)
        return eval_transform(self.config, shape), train_transform(self.config, shape)

    def __call__(self, value: Any, train: bool) -> Tensor:
        if isinstance(value, Image):
            value = to_rgb(value)
        elif not isinstance(value, Tensor | Recording):
            raise InvalidValue(
                f"a {type(value).__name__}; expected a Pillow image, uint8 pixels or a Recording"
            )
        view: Tensor = self._transforms[train](value)
        return view
