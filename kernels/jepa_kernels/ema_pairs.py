"""What `EmaPlan` asks of its tensors: that lists fit together, and that no teacher would move twice.

Every text here is shown to users. Axes: P pairs of a teacher and a student tensor, with or without a shadow.
"""

import torch
from torch import Tensor

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


def checked_pairs(teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor] | None) -> Lists:
    """(teacher, student, shadow) without empty and tied tensors, detached; shadow is [] where there is none.

    Raises ValueError as `EmaPlan` says.
    """
    for name, other in (("student", student), ("shadow", shadow)):
        if other is not None and len(other) != len(teacher):
            raise ValueError(f"teacher has {len(teacher)} tensors, {name} {len(other)}; expected as many")
    for index, (mine, theirs) in enumerate(zip(teacher, student, strict=True)):
        _check_fit(index, mine, "student", theirs)
        _check_teacher(index, mine)
    for index, copy in enumerate(shadow or []):
        _check_fit(index, teacher[index], "shadow", copy)
        _check_shadow(index, copy)
    _check_ties(teacher, student, "students")
    _check_ties(teacher, shadow or [], "shadows")
    kept = [index for index in _first_of_tied(teacher) if teacher[index].numel()]
    lists = [[x[index].detach() for index in kept if x] for x in (teacher, student, shadow or [])]
    return lists[0], lists[1], lists[2]


def _check_fit(index: int, teacher: Tensor, name: str, other: Tensor) -> None:
    if teacher.shape != other.shape:
        shapes = f"teacher has shape {list(teacher.shape)}, {name} {list(other.shape)}"
        raise ValueError(f"tensor {index}: {shapes}")
    if teacher.device != other.device:
        raise ValueError(f"tensor {index}: teacher is on {teacher.device}, {name} on {other.device}")


def _check_teacher(index: int, teacher: Tensor) -> None:
    if teacher.dtype != torch.float32:
        raise ValueError(
            f"tensor {index}: the teacher must be float32, got {teacher.dtype}; at low precision an EMA step "
            "is smaller than half a unit in the last place, so the teacher would never move"
        )
    if not teacher.is_contiguous():
        raise ValueError(f"tensor {index}: the teacher must be contiguous, got strides {teacher.stride()}")


def _check_shadow(index: int, shadow: Tensor) -> None:
    if shadow.dtype != torch.bfloat16:
        raise ValueError(f"tensor {index}: the shadow must be bfloat16, got {shadow.dtype}")
    if not shadow.is_contiguous():
        raise ValueError(f"tensor {index}: the shadow must be contiguous, got strides {shadow.stride()}")


def _first_of_tied(teacher: list[Tensor]) -> dict[int, None]:
    """Indices of each teacher tensor once, in order: tied weights must not move twice."""
    return dict.fromkeys(_ties(teacher))


def _ties(teacher: list[Tensor]) -> list[int]:
    """For each tensor, the index of the first that lies in the same memory (empty ones lie nowhere)."""
    seen: dict[tuple[int, int], int] = {}
    keys = [(t.data_ptr() if t.numel() else -index - 1, t.numel()) for index, t in enumerate(teacher)]
    return [seen.setdefault(key, index) for index, key in enumerate(keys)]


def _check_ties(teacher: list[Tensor], others: list[Tensor], name: str) -> None:
    for index, (first, other) in enumerate(zip(_ties(teacher), others, strict=False)):
        if other.numel() and others[first].data_ptr() != other.data_ptr():
            raise ValueError(f"teacher tensors {first} and {index} are tied, but their {name} are not")
