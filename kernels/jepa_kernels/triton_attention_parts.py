"""What the Triton attention kernels share: loading and storing tiles of packed rows.

What is unusual: rows and columns outside a tile are loaded as zero, never as what lies there, so that a
neighbour's NaN stays with the neighbour. Head widths that are no power of two are padded the same way.
Triton's interpreter computes wrongly in bf16: there (UPCAST) tiles are float32 from the load on.

Axes: R rows of a tile, W head width padded to a power of two; D the head width.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # exponentials are taken to base 2


@triton.jit
def load_rows(base, rows, valid, stride, D: tl.constexpr, W: tl.constexpr, UPCAST: tl.constexpr):
    """Tile [R, W]: rows `rows` (those that are `valid`) of a tensor with `stride` numbers a row."""
    columns = tl.arange(0, W)
    mask = valid[:, None] if W == D else valid[:, None] & (columns < D)[None, :]
    tile = tl.load(base + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def store_rows(base, rows, valid, stride, tile, D: tl.constexpr, W: tl.constexpr):
    """Writes the valid rows and the first D columns of `tile` [R, W], in the type of `base`."""
    columns = tl.arange(0, W)
    mask = valid[:, None] if W == D else valid[:, None] & (columns < D)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def scores_of(q, k, valid, scale, PRECISION: tl.constexpr):
    """[queries, keys] of log2(e) * scale * q k^T, -inf where a key is not valid."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E)
    return tl.where(valid[None, :], scores, float("-inf"))
