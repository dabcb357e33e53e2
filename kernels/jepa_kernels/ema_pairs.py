"""Checks of `EmaPlan`: the lists fit together, and no teacher tensor is updated twice.

Sharded tensors (DTensor, as FSDP2 makes them) are replaced by this process's shards: an average of two
tensors that are sharded alike is the average of their shards. Every text here is shown to users.

Axes: P pairs of a teacher and a student tensor, with or without a shadow.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


def pairs_of(teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor] | None) -> Lists:
    """(teacher, student, shadow) without empty and tied tensors, detached; shadow is [] where there is none.

    Raises ValueError as `EmaPlan` says.
    """
    for name, tensors in (("student", student), ("shadow", shadow)):
        if tensors is not None and len(tensors) != len(teacher):
            raise ValueError(f"teacher has {len(teacher)} tensors, {name} {len(tensors)}; expected as many")
    for index, (average, new) in enumerate(zip(teacher, student, strict=True)):
        _check_sharding(index, average, "student", new)
    for index, copy in enumerate(shadow or []):
        _check_sharding(index, teacher[index], "shadow", copy)
    teacher, student = local_shards(teacher), local_shards(student)
    shadow = None if shadow is None else local_shards(shadow)
    for index, (average, new) in enumerate(zip(teacher, student, strict=True)):
        _check_fit(index, average, "student", new)
        _check_teacher(index, average)
    for index, copy in enumerate(shadow or []):
        _check_fit(index, teacher[index], "shadow", copy)
        _check_shadow(index, copy)
    _check_ties(teacher, student, "students")
    _check_ties(teacher, shadow or [], "shadows")
    own = [index for index in _first_of_tied(teacher) if teacher[index].numel()]
    lists = [[x[index].detach() for index in own if x] for x in (teacher, student, shadow or [])]
    return lists[0], lists[1], lists[2]


@torch.no_grad()
def local_shards(tensors: Iterable[Any]) -> list[Tensor]:
    """The part of each sharded tensor that this process has; other tensors as they are."""
    return [tensor.to_local() if _is_sharded(tensor) else tensor for tensor in tensors]


def addresses(tensors: Iterable[Tensor]) -> list[int]:
    """The memory address of each tensor; for a sharded one, of this process's shard."""
    return [tensor.data_ptr() for tensor in local_shards(tensors)]


def _is_sharded(tensor: Any) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # loaded where there is a DTensor
    return module is not None and isinstance(tensor, module.DTensor)


def _check_sharding(index: int, teacher: Any, name: str, tensor: Any) -> None:
    sharded = _is_sharded(teacher), _is_sharded(tensor)
    if sharded == (False, False):
        return
    if sharded != (True, True):
        kinds = ("sharded" if flag else "not sharded" for flag in sharded)
        raise ValueError(
            f"tensor {index}: the teacher is {next(kinds)}, the {name} {next(kinds)}; expected both alike"
        )
    if teacher.device_mesh != tensor.device_mesh or teacher.placements != tensor.placements:
        raise ValueError(
            f"tensor {index}: teacher is sharded as {_sharding(teacher)}, {name} as {_sharding(tensor)}"
        )
    if any(placement.is_partial() for placement in teacher.placements):
        raise ValueError(f"tensor {index}: its shards are summands ({_sharding(teacher)}); expected parts")


def _sharding(tensor: Any) -> str:
    return f"{list(map(str, tensor.placements))} over {tensor.device_mesh}"


def _check_fit(index: int, teacher: Tensor, name: str, tensor: Tensor) -> None:
    if teacher.shape != tensor.shape:
        shapes = f"teacher has shape {list(teacher.shape)}, {name} {list(tensor.shape)}"
        raise ValueError(f"tensor {index}: {shapes}")
    if teacher.device != tensor.device:
        raise ValueError(f"tensor {index}: teacher is on {teacher.device}, {name} on {tensor.device}")


def _check_teacher(index: int, teacher: Tensor) -> None:
    if teacher.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"tensor {index}: the teacher must be float32 or float64, got {teacher.dtype}; at low precision "
            "an EMA step is smaller than half a unit in the last place, so the teacher would never move"
        )
    if teacher.numel() and teacher.data_ptr() == 0:
        raise ValueError(
            f"tensor {index}: the teacher has no memory at an address, so it cannot be updated in place "
            f"({type(teacher).__name__} on {teacher.device})"
        )
    if not teacher.is_contiguous():
        raise ValueError(f"tensor {index}: the teacher must be contiguous, got strides {teacher.stride()}")


def _check_shadow(index: int, shadow: Tensor) -> None:
    if shadow.dtype != torch.bfloat16:
        raise ValueError(f"tensor {index}: the shadow must be bfloat16, got {shadow.dtype}")
    if not shadow.is_contiguous():
        raise ValueError(f"tensor {index}: the shadow must be contiguous, got strides {shadow.stride()}")


def _first_of_tied(teacher: list[Tensor]) -> dict[int, None]:
    """Indices of distinct teacher tensors, in order: tied weights must not be updated twice."""
    return dict.fromkeys(_ties(teacher))


def _ties(teacher: Sequence[Tensor]) -> list[int]:
    """For each tensor, the index of the first one in the same memory; an empty tensor shares none."""
    seen: dict[tuple[int, int], int] = {}
    keys = [(t.data_ptr() if t.numel() else -index - 1, t.numel()) for index, t in enumerate(teacher)]
    return [seen.setdefault(key, index) for index, key in enumerate(keys)]


def _check_ties(teacher: list[Tensor], partners: list[Tensor], name: str) -> None:
    for index, (first, partner) in enumerate(zip(_ties(teacher), partners, strict=False)):
        if partner.numel() and partners[first].data_ptr() != partner.data_ptr():
            raise ValueError(f"teacher tensors {first} and {index} are tied, but their {name} are not")
