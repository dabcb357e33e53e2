"""The EMA update in Triton: every tensor of a plan in one launch, through a table of addresses.

A program owns one chunk of one tensor; a row of the table says where it lies. What is unusual:
- alpha is read on the device, so that a captured CUDA graph follows the momentum's schedule
- a bf16 copy of the teacher (its shadow) is written in the same pass, for 2 bytes a number
- a whole chunk at addresses that are multiples of 16 takes a branch without masks, in which the compiler
  moves 128 bits at a time; the ends of tensors, and views that begin anywhere, take the other branch
Moved per number: 12 bytes in fp32, 14 with a shadow; 10 and 12 where the student is bf16.

Axes: P tensors, C chunks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

from jepa_kernels.library import operation

CHUNK = 2048  # numbers of a program
WARPS = 4
STUDENT_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _to_bf16(x):
    """Bits int16 of fp32 `x` in bf16, rounded to nearest even; Triton's interpreter would truncate."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x == x, rounded, 0x7FC0).to(tl.int16)


@triton.jit
def _update(
    teacher, student, shadow, alpha, valid, SHADOW: tl.constexpr, MASK: tl.constexpr, ROUND: tl.constexpr
):
    mask = valid if MASK else None
    t = tl.load(teacher, mask=mask)
    s = tl.load(student, mask=mask).to(tl.float32)
    difference = s - t
    # two forms as in torch.lerp: t where s == t, exactly t at alpha 0, exactly s at alpha 1
    t = tl.where(alpha < 0.5, t + alpha * difference, s - difference * (1.0 - alpha))
    tl.store(teacher, t, mask=mask)
    if SHADOW:
        if ROUND:
            tl.store(shadow.to(tl.pointer_type(tl.int16)), _to_bf16(t), mask=mask)
        else:
            tl.store(shadow, t.to(tl.bfloat16), mask=mask)


@triton.jit
def kernel(
    table,  # int64 [C, 4]: addresses of teacher, student and shadow (0: none), numbers in the chunk
    alpha,  # float32 [1]
    STUDENT: tl.constexpr,
    SHADOW: tl.constexpr,
    CHUNK: tl.constexpr,
    ROUND: tl.constexpr,
):
    """Program c: the chunk of row c."""
    row = table + tl.program_id(0).to(tl.int64) * 4
    t, s, w, count = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    weight = tl.load(alpha)
    at = tl.arange(0, CHUNK)
    teacher, student = t.to(tl.pointer_type(tl.float32)), s.to(tl.pointer_type(STUDENT))
    shadow = w.to(tl.pointer_type(tl.bfloat16))
    if (((t | s | w) & 15) == 0) & (count == CHUNK):
        # the compiler believes the hint only where it stands on the pointer that is loaded from
        teacher, student = tl.multiple_of(teacher, 16), tl.multiple_of(student, 16)
        shadow = tl.multiple_of(shadow, 16)
        _update(teacher + at, student + at, shadow + at, weight, at < count, SHADOW, False, ROUND)
    else:
        _update(teacher + at, student + at, shadow + at, weight, at < count, SHADOW, True, ROUND)


INTERPRETED = not isinstance(kernel, JITFunction)
"""Whether TRITON_INTERPRET=1 was set when the kernel was loaded: it then runs on CPU tensors."""


class Table(NamedTuple):
    """One launch: rows int64 [C, 4] on the device, for students of one type, with or without shadows."""

    rows: Tensor
    student: torch.dtype
    shadow: bool


_IN_GRAPHS: list[Table] = []  # tables of captured CUDA graphs, whose lifetimes are unknown: never freed


def addresses(*lists: Sequence[Tensor]) -> list[int]:
    """The memory address of every tensor."""
    return [tensor.data_ptr() for tensors in lists for tensor in tensors]


def tables(
    teacher: Sequence[Tensor], student: Sequence[Tensor], shadow: Sequence[Tensor]
) -> tuple[Table, ...]:
    """A table for each type among the students; `shadow` is as long as `teacher`, or empty.

    Raises ValueError while a CUDA graph is captured, where nothing can be copied from the host.
    """
    sizes = tuple((t.numel(), s.dtype) for t, s in zip(teacher, student, strict=True))
    places = tuple(addresses(teacher, student, shadow))
    return _tables(places, sizes, teacher[0].device) if teacher else ()


@lru_cache(maxsize=32)
def _tables(
    places: tuple[int, ...], sizes: tuple[tuple[int, torch.dtype], ...], device: torch.device
) -> tuple[Table, ...]:
    if _is_capturing(device):
        raise ValueError(
            "a CUDA graph is being captured, and ema_update_ has not seen these tensors where they lie now; "
            "call it once before the capture"
        )
    count, shadowed = len(sizes), len(places) == 3 * len(sizes)
    shadow = places[2 * count :] if shadowed else (0,) * count
    whole = torch.tensor([places[:count], places[count : 2 * count], shadow, [n for n, _ in sizes]]).T
    launch_tables = []
    for dtype in dict.fromkeys(dtype for _, dtype in sizes):
        is_type = torch.tensor([dtype == student_type for _, student_type in sizes])
        steps = torch.tensor([4, dtype.itemsize, 2 if shadowed else 0, -1]) * CHUNK
        launch_tables.append(Table(_split_into_chunks(whole[is_type], steps).to(device), dtype, shadowed))
    return tuple(launch_tables)


def _split_into_chunks(whole: Tensor, steps: Tensor) -> Tensor:
    """int64 [C, 4] rows of chunks, from rows [P, 4] of tensors and what a chunk adds to each column [4]."""
    chunks = (whole[:, 3] + CHUNK - 1) // CHUNK
    number = torch.arange(int(chunks.sum())) - (chunks.cumsum(0) - chunks).repeat_interleave(chunks)
    rows = whole.repeat_interleave(chunks, 0) + number[:, None] * steps
    rows[:, 3].clamp_(max=CHUNK)
    return rows.contiguous()


def launch(tables: tuple[Table, ...], alpha: Tensor) -> None:
    """One kernel for each table; alpha: float32 [1] on the same device."""
    for table in tables:
        if _is_capturing(alpha.device):
            _IN_GRAPHS.append(table)
        with torch.cuda.device_of(table.rows):
            kernel[(len(table.rows),)](
                table.rows,
                alpha,
                STUDENT=STUDENT_TYPES[table.student],
                SHADOW=table.shadow,
                CHUNK=CHUNK,
                ROUND=INTERPRETED,
                num_warps=WARPS,
            )


def weight(alpha: float | Tensor, device: torch.device) -> Tensor:
    """float32 [1] on `device`, from a number or a tensor of one element there.

    Raises ValueError for a number while a CUDA graph is captured.
    """
    if isinstance(alpha, Tensor):
        return alpha.reshape(1).to(torch.float32)
    if _is_capturing(device):
        raise ValueError(
            f"a CUDA graph is being captured: alpha must be a tensor on {device}, or each replay repeats "
            "the momentum of the capture"
        )
    return torch.full((1,), alpha, dtype=torch.float32, device=device)


def _is_capturing(device: torch.device) -> bool:
    if device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return torch.cuda.is_current_stream_capturing()


@operation(
    "ema_update(Tensor(a!)[] teacher, Tensor[] student, Tensor(b!)[] shadow, Tensor alpha) -> ()",
    fake=lambda teacher, student, shadow, alpha: None,
)
def ema_update(teacher: list[Tensor], student: list[Tensor], shadow: list[Tensor], alpha: Tensor) -> None:
    """The update as an operation of torch, for compiled code: eager code is quicker without (139 us a call
    to pass 800 tensors)."""
    launch(tables(teacher, student, shadow), alpha)
