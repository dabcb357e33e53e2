"""The EMA update of whole encoders: ours, I-JEPA's released loop, and torch's foreach calls.

Every row is held against the least that must move: 12 bytes a number (teacher in and out, student in), and
14 where a bf16 shadow is written. The loop moves 28, the two foreach calls 20.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_kernels.bench.rows import CannotRun, Row, Settings, Work, failed_row, time_row
from jepa_kernels.bench.timing import stream_aside
from jepa_kernels.ema import EmaPlan, ema_update_

ALPHA = 0.004
LARGEST_ON_CPU = 100_000_000  # numbers: the larger encoders take minutes and many gigabytes there


@dataclass(frozen=True)
class Encoder:
    """Sizes of a vision transformer."""

    width: int
    depth: int
    hidden: int
    patch: int

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of its parameters, block after block."""
        d, h = self.width, self.hidden
        block = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,), (h, d), (h,), (d, h), (d,)]
        return [(d, 3, self.patch, self.patch), (d,), *block * self.depth, (d,), (d,)]


ENCODERS = {
    "CIFAR T/4": Encoder(192, 12, 768, 4),
    "I-JEPA T/16": Encoder(192, 12, 768, 16),
    "I-JEPA S/16": Encoder(384, 12, 1536, 16),
    "I-JEPA B/16": Encoder(768, 12, 3072, 16),
    "I-JEPA L/16": Encoder(1024, 24, 4096, 16),
    "I-JEPA H/14": Encoder(1280, 32, 5120, 14),
    "I-JEPA g/16": Encoder(1408, 40, 6144, 16),
}


@dataclass
class Tensors:
    """A teacher, its student and a shadow, on a device."""

    teacher: list[Tensor]
    student: list[Tensor]
    shadow: list[Tensor]

    @classmethod
    def of(cls, encoder: Encoder, device: torch.device) -> "Tensors":
        """Random tensors in the encoder's shapes."""
        teacher, student = ([torch.randn(s, device=device) for s in encoder.shapes()] for _ in range(2))
        return cls(teacher, student, [t.bfloat16() for t in teacher])


def rows(model: str, settings: Settings, only: tuple[str, ...] = ()) -> Iterator[Row]:
    """Every way to update one encoder; `only`: those named."""
    encoder = ENCODERS[model]
    numbers = sum(math.prod(shape) for shape in encoder.shapes())
    if settings.device.type == "cpu" and numbers > LARGEST_ON_CPU:
        row = Row("ema", model, "update", "all", Work(12 * numbers))
        yield failed_row(row, CannotRun(f"{numbers / 1e6:.0f} M numbers are left to a GPU"))
        return
    tensors = Tensors.of(encoder, settings.device)
    for name in only or PEERS:
        prepare, shadowed = PEERS[name]
        direction = "update and shadow" if shadowed else "update"
        row = Row("ema", model, direction, name, Work((14 if shadowed else 12) * numbers, 3 * numbers))
        try:
            call = prepare(tensors)
        except CannotRun as problem:
            yield failed_row(row, problem)
            continue
        with torch.no_grad(), stream_aside(settings.device):
            measured = time_row(row, call, settings)
        yield measured


def _own_update(impl: str, shadowed: bool) -> Callable[[Tensors], Callable[[], None]]:
    def prepare(tensors: Tensors) -> Callable[[], None]:
        plan = EmaPlan(tensors.teacher, tensors.student, tensors.shadow if shadowed else None)
        if impl == "triton" and plan.triton_problem:
            raise CannotRun(plan.triton_problem)
        alpha: float | Tensor = torch.tensor([ALPHA], device=plan.device) if impl == "triton" else ALPHA
        return lambda: ema_update_(plan, alpha, impl=impl)

    return prepare


def _released_loop(tensors: Tensors) -> Callable[[], None]:
    def call() -> None:
        for average, new in zip(tensors.teacher, tensors.student, strict=True):
            average.mul_(1.0 - ALPHA).add_(ALPHA * new)

    return call


def _two_calls(tensors: Tensors) -> Callable[[], None]:
    def call() -> None:
        torch._foreach_mul_(tensors.teacher, 1.0 - ALPHA)
        torch._foreach_add_(tensors.teacher, tensors.student, alpha=ALPHA)

    return call


def _lerp(tensors: Tensors) -> Callable[[], None]:
    def call() -> None:
        torch._foreach_lerp_(tensors.teacher, tensors.student, ALPHA)

    return call


def _lerp_and_copy(tensors: Tensors) -> Callable[[], None]:
    def call() -> None:
        torch._foreach_lerp_(tensors.teacher, tensors.student, ALPHA)
        torch._foreach_copy_(tensors.shadow, tensors.teacher)

    return call


PEERS: dict[str, tuple[Callable[[Tensors], Callable[[], None]], bool]] = {
    "ours: triton": (_own_update("triton", False), False),
    "ours: foreach": (_own_update("foreach", False), False),
    "released loop, mul_ and add_": (_released_loop, False),
    "_foreach_mul_ and _foreach_add_": (_two_calls, False),
    "_foreach_lerp_": (_lerp, False),
    "ours: triton, shadow": (_own_update("triton", True), True),
    "ours: foreach, shadow": (_own_update("foreach", True), True),
    "_foreach_lerp_ and _foreach_copy_": (_lerp_and_copy, True),
}
"""name -> (prepare: tensors to a call, whether it writes a shadow as well)."""
