"""What the transforms of named values have in common: their settings, and checks of numbers.

Axes: L elements of a sequence, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from jepa_core.settings.base import ValueSettings
from jepa_core.types.sample import Field


class InvalidValue(ValueError):
    """A value that a transform cannot use. The text says what came and what was expected."""


class ValueTransform:
    """Base of the transforms here: `Transform(config, field)`, see `protocols.Transform`."""

    class Config(ValueSettings):
        pass

    kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of value that it takes."""
    random: ClassVar[bool] = False
    """Whether it draws anything in training; if not, values in memory are transformed once."""

    def __init__(self, config: Config, field: Field) -> None:
        if self.kinds and field.kind not in self.kinds:
            raise InvalidValue(
                f"the transform {config.name!r} takes {', '.join(self.kinds)}; got {field.kind}"
            )
        self.config, self.field, self.output = config, field, field

    def __call__(self, value: Any, train: bool) -> Tensor:
        raise NotImplementedError


def as_numbers(value: Any, field: Field) -> Tensor:
    """A value as float32 of the field's shape; `ids` as int64 within its vocabulary.

    Raises InvalidValue for another type or shape, an empty sequence, and an id that is none.
    """
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise InvalidValue(f"a {type(value).__name__}; expected numbers") from None
    expected = shape_text(field)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidValue(f"{str(tensor.dtype).removeprefix('torch.')}; expected numbers {expected}")
    if not fits(tuple(tensor.shape), field.shape or (None,) * {"vector": 1, "sequence": 2, "ids": 1}.get(
        field.kind, tensor.dim())):  # fmt: skip
        raise InvalidValue(f"shape {list(tensor.shape)}; expected {expected}")
    if not tensor.numel():
        raise InvalidValue(f"nothing (shape {list(tensor.shape)}); expected {expected}")
    if field.kind != "ids":
        return tensor.to(torch.float32)
    if tensor.is_floating_point():
        raise InvalidValue(f"{str(tensor.dtype).removeprefix('torch.')} values; expected whole numbers")
    check_ids(tensor, field.vocabulary)
    return tensor.long()


def check_ids(ids: Tensor, vocabulary: int | None) -> None:
    """Raises InvalidValue for a number that is not in a vocabulary of this size."""
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        worst = low if low < 0 else high
        most = "on" if vocabulary is None else f"to {vocabulary - 1}"
        raise InvalidValue(f"the id {worst}; expected ids from 0 {most}")


def fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether a shape is one of those that are expected, None standing for any size."""
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def shape_text(field: Field) -> str:
    """The field's shape in words: `a vector [2]`, `a sequence [any, 4]`."""
    sides = ", ".join("any" if side is None else str(side) for side in field.shape)
    article = "an" if field.kind[0] in "aeiou" else "a"
    return f"{article} {field.kind}" + (f" [{sides}]" if field.shape else "")
