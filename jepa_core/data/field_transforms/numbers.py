"""Transforms of numbers: as they are, or to mean 0 and standard deviation 1 over the training split.

Axes: L elements of a sequence, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from jepa_core.data.field_transforms.base import InvalidValue, ValueTransform, as_numbers
from jepa_core.data.images import to_rgb
from jepa_core.errors import UserError
from jepa_core.types.sample import Field


class NoTransform(ValueTransform):
    """Numbers as they are, float32, ids int64; images of one size as float32 [3, h, w] of 0 to 1."""

    kinds = ("image", "ids", "vector", "sequence", "audio")

    class Config(ValueTransform.Config):
        nan: Literal["refuse", "zero"] = "refuse"
        """What NaN and infinite numbers become: refused, or 0."""

    config: Config

    def __call__(self, value: Any, train: bool) -> Tensor:
        if self.field.kind == "image":
            return _image(value)
        return finite(as_numbers(value, self.field), self.config.nan)


class Normalise(ValueTransform):
    """Each column of a vector, or of a sequence of vectors, to mean 0 and standard deviation 1.

    Mean and deviation are those of the training split, kept with the run. A constant column becomes 0.
    """

    kinds = ("vector", "sequence", "audio")

    class Config(ValueTransform.Config):
        nan: Literal["refuse", "zero"] = "refuse"
        """What NaN and infinite numbers become: refused, or 0, the mean."""

    config: Config

    def __init__(self, config: Config, field: Field) -> None:
        super().__init__(config, field)
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    def fit(self, values: Iterable[Any]) -> None:
        """Takes mean and deviation of every column, of the finite numbers alone."""
        count: Tensor | None = None
        for value in values:
            rows = as_numbers(value, self.field).double()
            rows = rows.reshape(-1, 1) if self.field.kind == "audio" else rows.reshape(-1, rows.shape[-1])
            good = rows.isfinite()
            rows = torch.where(good, rows, 0.0)
            sums = torch.stack([good.double().sum(0), rows.sum(0), rows.square().sum(0)])
            count = sums if count is None else count + sums
        if count is None or not (count[0] > 0).all():
            raise UserError("there are no numbers to take a mean of")
        mean = count[1] / count[0]
        variance = (count[2] / count[0] - mean.square()).clamp(min=0)
        self._take(mean.tolist(), variance.sqrt().tolist())

    def state(self) -> dict[str, Any]:
        """`mean` and `std`, a number for each column."""
        assert self.mean is not None
        assert self.std is not None
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes `mean` and `std`."""
        mean, std = state.get("mean"), state.get("std")
        if not _are_numbers(mean) or not _are_numbers(std) or len(mean) != len(std):  # type: ignore[arg-type]
            raise UserError("it has no lists of numbers 'mean' and 'std' of one length")
        self._take(mean, std)  # type: ignore[arg-type]

    def _take(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, value: Any, train: bool) -> Tensor:
        assert self.mean is not None, "not fitted"
        assert self.std is not None
        numbers = as_numbers(value, self.field)
        if self.field.kind != "audio" and numbers.shape[-1] != len(self.mean):
            raise InvalidValue(f"{numbers.shape[-1]} columns; the run's mean is of {len(self.mean)}")
        scaled = (numbers - self.mean) / torch.where(self.std > 0, self.std, 1.0)
        return finite(scaled, self.config.nan)


def finite(numbers: Tensor, nan: str) -> Tensor:
    """The numbers, where they are finite; else 0 with `nan="zero"`. Raises InvalidValue otherwise."""
    if not numbers.is_floating_point() or bool(numbers.isfinite().all()):
        return numbers
    if nan == "zero":
        return torch.where(numbers.isfinite(), numbers, 0.0)
    broken = (~numbers.isfinite()).nonzero()[0].tolist()
    raise InvalidValue(
        f'{numbers[tuple(broken)].item()} at {broken}; expected finite numbers (nan = "zero" makes it 0)'
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )


def _image(value: Any) -> Tensor:
    if isinstance(value, Image):
        value = F.pil_to_tensor(to_rgb(value))
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.dim() != 3:
        raise InvalidValue(f"a {type(value).__name__}; expected a Pillow image or uint8 [3, h, w]")
    return value.float() / 255
