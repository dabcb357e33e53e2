"""`ema_update_`: the teacher's moving average of the student, all tensors at once.

    plan = EmaPlan(teacher.parameters(), student.parameters())      # checked once
    ema_update_(plan, alpha=1 - momentum)                           # after every optimizer step

What is unusual: the update is teacher += alpha * (student - teacher). Written so, a teacher equal to its
student stays so bit for bit, and less is lost to rounding than with m * teacher + (1 - m) * student. The
teacher is fp32 (or fp64) whatever the student is: in bf16 the steps are smaller than half a unit in the last
place and it never moves. For a bf16 teacher to compute with, give the plan a `shadow`, written beside it.
alpha = 1 - m is the argument for the same reason: fp32 1 - 0.99999 has three digits.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jepa_kernels.ema_pairs import pairs_of
from jepa_kernels.names import Choice, unknown_impl

if TYPE_CHECKING:
    from jepa_kernels.triton_ema import Table

EMA_IMPLS = ("triton", "foreach", "reference")


class EmaPlan:
    """Pairs of teacher and student tensors, checked and freed of tied duplicates once.

    teacher: fp32 or fp64 tensors, updated in place; student: as many, of the same shapes and devices, in
        any precision (cast to the teacher's at each update). Sharded tensors (DTensor) must be sharded alike
    shadow: None, or as many bf16 tensors of the same shapes and devices, to which each update writes the
        new teacher rounded to nearest; before the first update they are as you made them
    Raises ValueError for lists of different length; shapes, devices or shardings that differ; a teacher of
    low precision, without memory of its own or not contiguous; a teacher tensor tied to two students or two
    shadows; and a shadow that is not bf16 or not contiguous.
    """

    def __init__(
        self, teacher: Iterable[Tensor], student: Iterable[Tensor], shadow: Iterable[Tensor] | None = None
    ) -> None:
        lists = (list(teacher), list(student), None if shadow is None else list(shadow))
        self.teacher, self.student, self.shadow = pairs_of(*lists)
        self.triton_problem = _triton_problem(self)
        """Why `triton` cannot take this plan, as the end of a sentence that begins with "it"; or None."""
        self._addresses: list[int] = []
        self._tables: tuple[Table, ...] = ()

    def __repr__(self) -> str:
        shadowed = ", with a shadow" if self.shadow else ""
        return (
            f"EmaPlan({len(self.teacher)} tensors, {sum(t.numel() for t in self.teacher)} numbers{shadowed})"
        )

    @property
    def device(self) -> torch.device:
        """The device of the first tensor; the CPU for an empty plan."""
        return self.teacher[0].device if self.teacher else torch.device("cpu")

    def tables(self) -> "tuple[Table, ...]":
        """Tables of addresses for the Triton kernel, made anew where a tensor's memory has moved."""
        from jepa_kernels.triton_ema import addresses, tables

        places = addresses(self.teacher, self.student, self.shadow)
        if places != self._addresses:
            self._tables = tables(self.teacher, self.student, self.shadow)
            self._addresses = places
        return self._tables


def ema_update_(plan: EmaPlan, alpha: float | Tensor, *, impl: str = "auto") -> None:
    """teacher += alpha * (student - teacher) in place, for every pair of `plan`; outside autograd.

    alpha: 1 - momentum, in [0, 1]; a number, or a tensor of one element. "triton" reads a tensor on the
        plan's device there, unchecked: nothing waits, and a CUDA graph that holds the call follows the
        tensor's value. Other tensors are read to the host on each call.
    impl: "auto" ("triton" on CUDA where it can, else "foreach"), "triton" (one launch; before it is captured
        in a CUDA graph it must have run once), "foreach" (torch._foreach_lerp_), "reference" (a loop of lerp)
    Raises ValueError for an unknown impl or one that cannot take this plan, for an alpha that is outside
    [0, 1] or not one number, and for a number as alpha while a CUDA graph is captured.
    Source: momentum encoder, He et al. 2020 (arXiv 1911.05722), equation 2; I-JEPA (arXiv 2301.08243), 3.
    """
    if isinstance(alpha, Tensor) and alpha.numel() != 1:
        raise ValueError(f"alpha must be one number, 1 - momentum; got a tensor of {list(alpha.shape)}")
    impl = _pick(impl, plan)
    with torch.no_grad():
        if impl == "triton":
            _triton(plan, alpha)
            return
        weight = _check_weight(float(alpha))
        student = [s.to(t.dtype) for s, t in zip(plan.student, plan.teacher, strict=True)]
        if impl == "reference":
            reference_ema_(plan.teacher, student, weight)
        elif plan.teacher:
            torch._foreach_lerp_(plan.teacher, student, weight)
        if plan.shadow:
            torch._foreach_copy_(plan.shadow, plan.teacher)


def explain_ema(plan: EmaPlan) -> list[Choice]:
    """For each implementation: can it take this plan, why (not), and is it what auto takes."""
    chosen = _pick("auto", plan)
    reasons = {
        "triton": plan.triton_problem or "all tensors in one launch; alpha may stay on the device",
        "foreach": "all tensors in one call" if plan.teacher else "there is nothing to update",
        "reference": "a call for each tensor",
    }
    usable = {"triton": plan.triton_problem is None}
    return [Choice(name, usable.get(name, True), reasons[name], name == chosen) for name in EMA_IMPLS]


def reference_ema_(teacher: list[Tensor], student: list[Tensor], weight: float) -> None:
    """The operation's definition: a loop of lerp."""
    for average, new in zip(teacher, student, strict=True):
        average.lerp_(new, weight)


def _pick(impl: str, plan: EmaPlan) -> str:
    if impl == "auto":
        return "triton" if plan.device.type == "cuda" and plan.triton_problem is None else "foreach"
    if impl not in EMA_IMPLS:
        raise unknown_impl(impl, "ema_update_", EMA_IMPLS)
    if impl == "triton" and plan.triton_problem is not None:
        raise ValueError(f"impl 'triton' of ema_update_ cannot run here: it {plan.triton_problem}")
    return impl


def _triton_problem(plan: EmaPlan) -> str | None:
    devices = {t.device for t in plan.teacher}
    if len(devices) > 1:
        return f"needs all tensors on one device, got {', '.join(sorted(map(str, devices)))}"
    if any(t.dtype != torch.float32 for t in plan.teacher):
        return "needs teachers of float32, got float64"
    types = {s.dtype for s in plan.student} - {torch.float32, torch.bfloat16, torch.float16}
    if types:
        return f"needs students of float32, bfloat16 or float16, got {types.pop()}"
    if not all(s.is_contiguous() for s in plan.student):
        return "needs contiguous students, and one is not"
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    kind = plan.device.type
    if kind == "cuda" or (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"needs CUDA tensors, got {kind}; on a CPU it runs under TRITON_INTERPRET=1, for tests"


def _triton(plan: EmaPlan, alpha: float | Tensor) -> None:
    from jepa_kernels import triton_ema  # loads triton

    there = isinstance(alpha, Tensor) and alpha.device == plan.device
    weight = triton_ema.weight(alpha if there else _check_weight(float(alpha)), plan.device)
    if torch.compiler.is_compiling():
        triton_ema.ema_update(plan.teacher, plan.student, plan.shadow, weight)
    else:
        triton_ema.launch(plan.tables(), weight)


def _check_weight(weight: float) -> float:
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"alpha is 1 - momentum, in [0, 1]; got {weight}")
    return weight
