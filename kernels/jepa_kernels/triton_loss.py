"""The prediction loss in Triton: one pass that reads z and h once and writes the gradient of z.

A program takes a few rows, one after another; a row is one tile. Each writes the sum of its rows, and torch
adds those up, so that no order depends on the run. Moved per number: z once, h once, the gradient once.

Axes: M predictions, D width, W the same padded to a power of two.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jepa_kernels.library import backward_of, operation

ROWS = 8  # of a program


@triton.jit
def kernel(
    z,  # [M, D]
    h,  # [R, D]
    rows,  # int [M]
    dz,  # [M, D], written: the gradient of the sum
    sums,  # float32 [programs], written
    count,  # M
    stride,  # of h, numbers a row
    beta,
    eps,
    D: tl.constexpr,
    W: tl.constexpr,
    ROWS: tl.constexpr,
    KIND: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Program p: rows p * ROWS and on."""
    at = tl.arange(0, W)
    inside = at < D
    total = tl.zeros([W], tl.float32)
    first = tl.program_id(0).to(tl.int64) * ROWS
    for row in range(first, tl.minimum(first + ROWS, count)):
        source = tl.load(rows + row).to(tl.int64)
        t = tl.load(h + source * stride + at, mask=inside, other=0.0).to(tl.float32)
        if NORMALIZE:
            t = tl.where(inside, t - tl.sum(t) / D, 0.0)
            t = t * tl.rsqrt(tl.sum(t * t) / D + eps)
        d = tl.where(inside, tl.load(z + row * D + at, mask=inside, other=0.0).to(tl.float32) - t, 0.0)
        size = tl.abs(d)
        sign = tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, 0.0))
        sign = tl.where(d == d, sign, d)  # NaN stays NaN
        if KIND == 0:
            small = size < beta
            total += tl.where(small, 0.5 * d * d / beta, size - 0.5 * beta)
            gradient = tl.where(small, d / beta, sign)
        elif KIND == 1:
            total += size
            gradient = sign
        else:
            total += d * d
            gradient = 2 * d
        tl.store(dz + row * D + at, gradient.to(dz.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0), tl.sum(total))


def _fake(z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return z.new_empty((), dtype=torch.float32), torch.empty_like(z, memory_format=torch.contiguous_format)


@operation(
    "jepa_loss(Tensor z, Tensor h, Tensor rows, float beta, float eps, int kind, bool normalize) "
    "-> (Tensor, Tensor)",
    fake=_fake,
)
def loss_and_gradient(
    z: Tensor, h: Tensor, rows: Tensor, beta: float, eps: float, kind: int, normalize: bool
) -> tuple[Tensor, Tensor]:
    """(the loss, float32; the gradient of the sum [M, D] in z's type); kind: 0 smooth L1, 1 L1, 2 MSE.

    Of the sum, because that of the mean would fall below the smallest number of float16.
    """
    z, (count, width) = z.contiguous(), z.shape
    h = h if h.stride(1) == 1 else h.contiguous()
    dz, programs = torch.empty_like(z), triton.cdiv(count, ROWS)
    sums = torch.empty(programs, dtype=torch.float32, device=z.device)
    padded = triton.next_power_of_2(width)
    with torch.cuda.device_of(z):
        kernel[(programs,)](
            *(z, h, rows, dz, sums, count, h.stride(0), beta, eps),
            D=width,
            W=padded,
            ROWS=ROWS,
            KIND=kind,
            NORMALIZE=normalize,
            num_warps=4 if padded <= 2048 else 8,
        )
    return sums.sum() / (count * width), dz


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


@backward_of(loss_and_gradient, _save)
def _gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (dz,) = ctx.saved_tensors
    return dz * (grad / dz.numel()), *([None] * 6)


def triton_loss(
    z: Tensor, h: Tensor, rows: Tensor, beta: float, eps: float, kind: int, normalize: bool
) -> Tensor:
    """The scalar loss; see `jepa_kernels.loss.jepa_loss`, which checks the input."""
    loss: Tensor = loss_and_gradient(z, h, rows, beta, eps, kind, normalize)[0]
    return loss
