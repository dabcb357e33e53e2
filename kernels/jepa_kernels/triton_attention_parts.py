"""Helpers of the Triton attention kernels: a program's segment, loads and stores of tiles, products of tiles.

What is unusual:
- a head width that is no power of two is two parts side by side where that is less than the next power of
  two: 80 is 64 + 16 and 88 is 64 + 32, instead of 128. A tile of rows is therefore a pair of tensors, whose
  second is not used where REST is 0.
- rows and columns outside a tile are loaded as zero, never from memory, so that NaN in a neighbouring
  sequence does not spread.
- Triton's interpreter computes wrongly in bf16: there (UPCAST) tiles are float32 from the load on.

Axes: R rows of a tile, D head width, W and REST the padded widths of its two parts (REST 0: one part).
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # exponentials are taken to base 2


@triton.jit
def segment_of(seg, heads, COLUMNS: tl.constexpr):
    """(row of `seg`, first row and length of its segment, head) of program 0: head-fastest in the grid."""
    row = seg + tl.program_id(0) // heads * COLUMNS
    return row, tl.load(row), tl.load(row + 1), tl.program_id(0) % heads


@triton.jit
def _load_part(base, rows, valid, stride, D: tl.constexpr, W: tl.constexpr, UPCAST: tl.constexpr):
    columns = tl.arange(0, W)
    mask = valid[:, None] if W == D else valid[:, None] & (columns < D)[None, :]
    tile = tl.load(base + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def load_rows(
    base, rows, valid, stride, D: tl.constexpr, W: tl.constexpr, REST: tl.constexpr, UPCAST: tl.constexpr
):
    """Tile [R, W], [R, REST]: the `valid` ones of `rows` of a tensor with `stride` numbers a row."""
    if REST:
        first = _load_part(base, rows, valid, stride, W, W, UPCAST)
        return first, _load_part(base + W, rows, valid, stride, D - W, REST, UPCAST)
    else:
        first = _load_part(base, rows, valid, stride, D, W, UPCAST)
        return first, first


@triton.jit
def _store_part(base, rows, valid, stride, tile, D: tl.constexpr, W: tl.constexpr):
    columns = tl.arange(0, W)
    mask = valid[:, None] if W == D else valid[:, None] & (columns < D)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def store_rows(base, rows, valid, stride, tile, D: tl.constexpr, W: tl.constexpr, REST: tl.constexpr):
    """Writes the valid rows and the first D columns of a tile, in the type of `base`."""
    if REST:
        _store_part(base, rows, valid, stride, tile[0], W, W)
        _store_part(base + W, rows, valid, stride, tile[1], D - W, REST)
    else:
        _store_part(base, rows, valid, stride, tile[0], D, W)


@triton.jit
def zeros_of(ROWS: tl.constexpr, W: tl.constexpr, REST: tl.constexpr):
    """A tile of zeros in float32."""
    return tl.zeros([ROWS, W], tl.float32), tl.zeros([ROWS, REST if REST else 1], tl.float32)


@triton.jit
def row_products(a, b, REST: tl.constexpr, PRECISION: tl.constexpr):
    """a b^T, float32 [rows of a, rows of b]."""
    products = tl.dot(a[0], tl.trans(b[0]), input_precision=PRECISION)
    if REST:
        products = tl.dot(a[1], tl.trans(b[1]), acc=products, input_precision=PRECISION)
    return products


@triton.jit
def add_mixed_rows(sums, weights, tile, REST: tl.constexpr, PRECISION: tl.constexpr):
    """sums + weights @ tile, where `weights` is [R, rows of tile]."""
    first = tl.dot(weights, tile[0], acc=sums[0], input_precision=PRECISION)
    if REST:
        return first, tl.dot(weights, tile[1], acc=sums[1], input_precision=PRECISION)
    else:
        return first, sums[1]


@triton.jit
def mixed_rows(weights, tile, REST: tl.constexpr, PRECISION: tl.constexpr):
    """weights @ tile, float32."""
    first = tl.dot(weights, tile[0], input_precision=PRECISION)
    if REST:
        return first, tl.dot(weights, tile[1], input_precision=PRECISION)
    else:
        return first, first


@triton.jit
def times(tile, factor, REST: tl.constexpr):
    """The tile with each row, or all of it, multiplied by `factor`."""
    first = tile[0] * factor
    if REST:
        return first, tile[1] * factor
    else:
        return first, tile[1]


@triton.jit
def scores_of(q, k, valid, scale, REST: tl.constexpr, PRECISION: tl.constexpr):
    """[queries, keys] of log2(e) * scale * q k^T, -inf where a key is not valid."""
    scores = row_products(q, k, REST, PRECISION) * (scale * LOG2E)
    return tl.where(valid[None, :], scores, float("-inf"))
