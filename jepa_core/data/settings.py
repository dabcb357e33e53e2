"""Settings of sources that hold out splits, and those of the transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from jepa_core.settings import Settings, SourceSettings


def _least_first(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("two numbers, the least first")
    return pair


Share = Annotated[float, Field(ge=0, lt=1)]
AreaShare = Annotated[float, Field(gt=0, le=1)]
CropScale = Annotated[tuple[AreaShare, AreaShare], AfterValidator(_least_first)]
Positive = Annotated[float, Field(gt=0)]
Colour = tuple[float, float, float]


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


class ViewSettings(Settings):
    """A group of random crops of each image, of one size."""

    count: int = Field(1, ge=1, le=64)
    """Crops of each image, V; the batch has them as [B, V, 3, H, W] (of clips [B, V, 3, T, H, W])."""
    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Side of the crops in pixels, or (height, width); by default the encoder's image size."""
    crop_scale: CropScale | None = None
    """Area of the crops as a share of the image: least, most; by default that of the transform."""

    def shape(self, view_shape: Sequence[int]) -> tuple[int, ...]:
        """(3, H, W) of a crop, or (3, T, H, W), where the encoder asks for `view_shape`."""
        if self.size is None:
            return tuple(view_shape)
        height, width = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return *view_shape[:-2], height, width


class TransformSettings(Settings):
    """Training: random resized crop, flip, colour, blur. Evaluation: resize, centre crop. Then normalise."""

    crop_scale: CropScale = (0.3, 1.0)
    """Area of the random crop as a share of the image: least, most."""
    crop_ratio: Annotated[tuple[Positive, Positive], AfterValidator(_least_first)] = (3 / 4, 4 / 3)
    """Width / height of the random crop: least, most."""
    flip: float = Field(0.0, ge=0, le=1)
    """Probability of a horizontal flip."""
    colour_jitter: float = Field(0.0, ge=0)
    """Strength s of the colour distortion of SimCLR (appendix A): brightness, contrast and saturation by
    up to .8 s and hue by up to .2 s in 80 % of the images, greyscale in 20 %; 0: none of it."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a Gaussian blur (kernel a tenth of the side, sigma .1 to 2 pixels)."""
    eval_crop: float = Field(1.0, gt=0, le=1)
    """Share of the shorter side that the evaluation's centre crop keeps; .875 is ImageNet's 256 to 224."""
    mean: Colour = (0.485, 0.456, 0.406)
    """Mean of red, green, blue (of 0 to 1) that is subtracted; ImageNet's by default."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green, blue that is divided by."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized; always with antialiasing."""
    views: dict[str, ViewSettings] = Field(default_factory=dict)
    """Groups of crops by name, for training on several views of an image: a table each, with count, size and
    crop_scale. The first group holds what is to be predicted. Without any there is one crop, `image`."""

    def of_view(self, view: ViewSettings) -> TransformSettings:
        """The settings of one crop of a group."""
        return self.model_copy(update={"crop_scale": view.crop_scale or self.crop_scale, "views": {}})
