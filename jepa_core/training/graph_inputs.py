"""The inputs of a step that is recorded in a CUDA graph: tensors at addresses that do not change.

A graph reads from fixed addresses, so each batch is copied to where the first one's tensors were placed. What
is no tensor cannot change from step to step: the graph would keep the value it was recorded with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types.batch import Batch

STEP_USED = (
    "a part of the model uses the number of the step, which a CUDA graph cannot follow; set "
    "train.cuda_graph=false"
)


class GraphInputs:
    """Places for all tensors of a batch: views, condition, side and labels.

    Raises UserError for a batch with a condition that holds anything but tensors.
    """

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.form = form(batch)
        placed = batch.map(lambda tensor: torch.empty_like(tensor, device=device))
        self.batch = replace(placed, step=StepOfAGraph())  # type: ignore[arg-type]

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the tensors of the first one: names, shapes and types."""
        return form(batch) == self.form

    def copy(self, batch: Batch) -> None:
        """Copies a batch that fits into the places; nothing waits for the copies."""
        for place, tensor in zip(_tensors(self.batch), _tensors(batch), strict=True):
            place.copy_(tensor, non_blocking=True)


def form(batch: Batch) -> Any:
    """Names, shapes and types of all tensors of a batch, nested as they are."""
    return [_form(part) for part in _parts(batch)]


def _parts(batch: Batch) -> tuple[Any, ...]:
    return batch.views, batch.condition, batch.side, batch.labels, batch.targets


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if value is None:
        return None
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), [(entry.name, _form(getattr(value, entry.name))) for entry in fields(value)]
    if isinstance(value, list | tuple):
        return type(value), [_form(inner) for inner in value]
    try:
        return {key: _form(inner) for key, inner in value.items()}
    except AttributeError:
        raise UserError(
            f"train.cuda_graph carries tensors alone, and batch.condition holds a {type(value).__name__}; "
            "set train.cuda_graph=false"
        ) from None


def _tensors(batch: Batch) -> list[Tensor]:
    tensors: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    batch.map(add)
    return tensors


@contextmanager
def use_of_step_in_a_line() -> Iterator[None]:
    """Turns the error of a function of torch that was given a StepOfAGraph into its UserError."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        if StepOfAGraph.__name__ in str(error):
            raise UserError(STEP_USED) from error
        raise


class StepOfAGraph:
    """Stands for `batch.step` in a step that is recorded: may be handed on, but not used.

    A graph would keep the number of the step in which it was recorded. Raises UserError when used.
    """

    def _refuse(self, *_: object) -> NoReturn:
        raise UserError(STEP_USED)

    __index__ = __int__ = __float__ = __bool__ = __str__ = __format__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = _refuse
    __and__ = __or__ = __xor__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __eq__ = __ne__ = __hash__ = _refuse
