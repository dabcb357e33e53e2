"""`ema_update_`: the teacher's moving average of the student, all tensors at once.

    plan = EmaPlan(teacher.parameters(), student.parameters())      # checked once
    ema_update_(plan, alpha=1 - momentum)                           # after every optimizer step

What is unusual: the update is teacher += alpha * (student - teacher). Written so, a teacher equal to its
student stays so bit for bit, and less is lost to rounding than with m * teacher + (1 - m) * student. The
teacher is fp32 whatever the student is: in bf16 the steps are smaller than half a unit in the last place
and it never moves. alpha = 1 - m is the argument for the same reason: fp32 1 - 0.99999 has three digits.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from jepa_kernels.names import unknown_impl

EMA_IMPLS = ("foreach", "reference")


class EmaPlan:
    """Pairs of teacher and student tensors, checked and freed of tied duplicates once.

    teacher: fp32 tensors, updated in place; student: as many, of the same shapes and devices, fp32, or
        bf16 or fp16 (upcast at each update)
    Raises ValueError for lists of different length, shapes or devices that differ, a teacher that is not
    fp32, a teacher that overlaps itself or is not contiguous, and a teacher tensor tied to two students.
    """

    def __init__(self, teacher: Iterable[Tensor], student: Iterable[Tensor]) -> None:
        pairs = _pair(list(teacher), list(student))
        for index, (mine, theirs) in enumerate(pairs):
            _check_pair(index, mine, theirs)
        pairs = [(t.detach(), s.detach()) for t, s in _untie(pairs) if t.numel()]
        self.teacher: list[Tensor] = [t for t, _ in pairs]
        self.student: list[Tensor] = [s for _, s in pairs]

    def __repr__(self) -> str:
        return f"EmaPlan({len(self.teacher)} tensors, {sum(t.numel() for t in self.teacher)} numbers)"


def ema_update_(plan: EmaPlan, alpha: float | Tensor, *, impl: str = "auto") -> None:
    """teacher += alpha * (student - teacher) in place, for every pair of `plan`; outside autograd.

    alpha: 1 - momentum, in [0, 1]; a number, or a tensor of one element (read to the host on each call)
    impl: "auto" (is "foreach"), "foreach" (one call of torch._foreach_lerp_), "reference" (a loop of lerp)
    Raises ValueError for an unknown impl, or an alpha that is outside [0, 1] or not one number.
    Source: momentum encoder, He et al. 2020 (arXiv 1911.05722), equation 2; I-JEPA (arXiv 2301.08243), 3.
    """
    if impl != "auto" and impl not in EMA_IMPLS:
        raise unknown_impl(impl, "ema_update_", EMA_IMPLS)
    weight = _weight(alpha)
    with torch.no_grad():
        student = [s.to(torch.float32) for s in plan.student]
        if impl == "reference":
            reference_ema_(plan.teacher, student, weight)
        elif plan.teacher:
            torch._foreach_lerp_(plan.teacher, student, weight)


def reference_ema_(teacher: list[Tensor], student: list[Tensor], weight: float) -> None:
    """The operation's definition: a loop of lerp."""
    for mine, theirs in zip(teacher, student, strict=True):
        mine.lerp_(theirs, weight)


def _weight(alpha: float | Tensor) -> float:
    if isinstance(alpha, Tensor) and alpha.numel() != 1:
        raise ValueError(f"alpha must be one number, 1 - momentum; got a tensor of {list(alpha.shape)}")
    weight = float(alpha)
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"alpha is 1 - momentum, in [0, 1]; got {weight}")
    return weight


def _pair(teacher: list[Tensor], student: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    if len(teacher) != len(student):
        raise ValueError(f"teacher has {len(teacher)} tensors, student {len(student)}; expected as many")
    return list(zip(teacher, student, strict=True))


def _check_pair(index: int, teacher: Tensor, student: Tensor) -> None:
    if teacher.shape != student.shape:
        raise ValueError(
            f"tensor {index}: teacher has shape {list(teacher.shape)}, student {list(student.shape)}"
        )
    if teacher.device != student.device:
        raise ValueError(f"tensor {index}: teacher is on {teacher.device}, student on {student.device}")
    if teacher.dtype != torch.float32:
        raise ValueError(
            f"tensor {index}: the teacher must be float32, got {teacher.dtype}; at low precision an EMA step "
            "is smaller than half a unit in the last place, so the teacher would never move"
        )
    if not teacher.is_contiguous():
        raise ValueError(f"tensor {index}: the teacher must be contiguous, got strides {teacher.stride()}")


def _untie(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Each teacher tensor once: tied weights must not move twice."""
    seen: dict[tuple[int, int], tuple[int, Tensor]] = {}
    for index, (teacher, student) in enumerate(pairs):
        key = (teacher.data_ptr() if teacher.numel() else -index - 1, teacher.numel())
        first, known = seen.setdefault(key, (index, student))
        if known.data_ptr() != student.data_ptr():
            raise ValueError(f"teacher tensors {first} and {index} are tied, but their students are not")
    return [pairs[index] for index, _ in seen.values()]
