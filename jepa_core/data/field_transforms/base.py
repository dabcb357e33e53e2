"""What a transform of a named value must do, and what those here have in common: checks of numbers.

Axes: L elements of a sequence, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from jepa_core.settings.base import ValueSettings
from jepa_core.types.sample import Field

RANKS = {"vector": 1, "sequence": 2, "ids": 1, "map": 2}
"""Axes of a value, by its kind."""


@runtime_checkable
class Transform(Protocol):
    """`Transform(config, field)`: what is done to one named value of each sample before the model sees it."""

    Config: ClassVar[type[ValueSettings]]
    config: Any
    """Its settings; `config.invalid` says what becomes of a value that it refuses."""
    random: bool
    """Whether it draws anything in training; if not, values in memory are transformed once."""
    output: Field
    """What comes out."""

    def __call__(self, value: Any, train: bool) -> Tensor:
        """The value as a tensor of the shape in `output`, its first axis being of any length where that is.

        With `train` it may draw from torch's global randomness. Raises `InvalidValue`, which
        says what came and what was expected, for a value that cannot be used.
        """
        ...


@runtime_checkable
class FittedTransform(Protocol):
    """What a `Transform` adds that learns something from the training split: a vocabulary, a mean.

    What it learned is kept in the run's folder, and its hash in each checkpoint.
    """

    def fit(self, values: Iterable[Any]) -> None:
        """Learns from the values of training samples, 20,000 at most, evenly spaced.

        Raises UserError where they do not suffice.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What it has learned, as plain values that JSON can hold."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave. Raises UserError for anything else."""
        ...


@runtime_checkable
class ViewTransform(Protocol):
    """What a `Transform` adds that makes views of the shape that an encoder asks for."""

    def set_view_shape(self, shape: Sequence[int]) -> None:
        """Takes the shape of the encoder's views without B; `output` says it from then on."""
        ...


@runtime_checkable
class FollowsView(Protocol):
    """What a `Transform` adds whose values belong to the pixels of the first view.

    Nothing follows a random crop, so such values are in batches for evaluation only.
    """

    def follow(self, view: Transform) -> None:
        """Takes the transform of the first view, whose `output` says its shape, to do as it does."""
        ...


class InvalidValue(ValueError):
    """A value that a transform cannot use. The text says what came and what was expected."""


class ValueTransform(ABC):
    """Base of the transforms here: `Transform(config, field)`, see `Transform`."""

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

    @abstractmethod
    def __call__(self, value: Any, train: bool) -> Tensor:
        """The value as a tensor; see `Transform`."""


def as_numbers(value: Any, field: Field) -> Tensor:
    """A value as float32 of the field's shape; `ids`, within their vocabulary, and maps of classes as int64.

    Raises InvalidValue for another type or shape, an empty sequence, and an id that is none.
    """
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise InvalidValue(f"a {type(value).__name__}; expected numbers") from None
    expected = shape_text(field)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidValue(f"{str(tensor.dtype).removeprefix('torch.')}; expected numbers {expected}")
    if not fits(tuple(tensor.shape), field.shape or (None,) * RANKS.get(field.kind, tensor.dim())):
        raise InvalidValue(f"shape {list(tensor.shape)}; expected {expected}")
    if not tensor.numel():
        raise InvalidValue(f"nothing (shape {list(tensor.shape)}); expected {expected}")
    if field.kind == "map" and not tensor.is_floating_point():
        return tensor.long()
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
