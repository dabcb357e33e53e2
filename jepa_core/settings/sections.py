"""The engine's own sections of a recipe: transform, train, kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    PositiveInt,
)

from jepa_core.settings.base import Settings


class TrainSettings(Settings):
    """The training loop."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps of the whole run; goes before `epochs` and `hours`."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training images, where `steps` is not given."""
    hours: float | None = Field(None, gt=0, le=100_000)
    """Hours by the wall clock: the first steps are timed when the run starts, and `steps` is set once to what
    fits into that time, but not to more than `epochs`. The run's recipe has both."""
    epoch_images: int | None = Field(None, ge=1)
    """Images of one epoch; by default as many as the training split has."""
    batch_size: int = Field(128, ge=1)
    """Images of one optimizer step."""
    epoch_steps: int | None = Field(None, ge=1)
    """Steps that an epoch has at least: `batch_size` is halved, down to 2, until it has them when the run
    starts, for folders of few images. The run's recipe has the size that came of it."""
    micro_batch: int | None = Field(None, ge=1)
    """Images of one forward pass; the gradients of batch_size / micro_batch passes add up to one step.
    Pass m draws its samples and masks as rank m of as many would. By default the whole batch at once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast to bf16, or fp32 throughout; auto: bf16 where the device multiplies it fast."""
    compile: bool = False
    """Compile the model's forward and backward pass (torch.compile, one graph for sets of all lengths): the
    first steps take a minute or two."""
    cuda_graph: bool = False
    """Record the step in a CUDA graph once and replay it: for models whose many small kernels a GPU outruns.
    Ragged sets are padded to lengths measured from the masker; a batch that does not fit runs as it is. NaN
    and infinite values are found when a line is logged; the optimizer leaves out the steps that had them."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, …; auto: the first GPU, or the CPU."""
    log_every: int = Field(10, ge=1)
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = Field(0, ge=0)
    """Steps between two small kNN evaluations on the validation split; 0: none."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between two checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=1)
    """Checkpoints that are kept."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a step whose loss or gradient is NaN or infinite does: end the run, or change nothing."""
    spike_guard: float | None = Field(None, gt=0)
    """Skip a step whose loss is more than so many standard deviations above the mean of the last 300
    (V-JEPA 2.1); by default none is."""
    max_skipped: int = Field(10, ge=0)
    """Skipped steps among the last 300 that are put up with; one more ends the run."""


class KernelSettings(Settings):
    """Which implementations compute, where a component's own settings leave it open."""

    attention: str = "auto"
    """Of attention, for every encoder and predictor whose own `attention` is `auto`: one of
    `jepa_kernels.ATTENTION_IMPLS` (xformers, flex, varlen, sdpa …), which then runs or says why it cannot."""


def _least_first(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("two numbers, the least first")
    return pair


AreaShare = Annotated[float, Field(gt=0, le=1)]

CropScale = Annotated[tuple[AreaShare, AreaShare], AfterValidator(_least_first)]

Positive = Annotated[float, Field(gt=0)]

Colour = tuple[float, float, float]


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
    """Training: random resized crop, flip, RandAugment, colour, blur. Evaluation: resize, centre crop. Then
    normalise."""

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
    rand_augment: int = Field(0, ge=0, le=16)
    """Operations of RandAugment (arXiv 1909.13719) on each image after the flip, such as rotation, shear,
    contrast and posterising, drawn with replacement; 0: none."""
    rand_magnitude: int = Field(9, ge=0, le=30)
    """Strength of each of these operations, of 0 to 30."""
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
