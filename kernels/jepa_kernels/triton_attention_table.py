"""The tuning table of the Triton attention: who takes what, in which tiles, by how many warps and stages.

One row for each padded head width, bucket of lengths and size of a number. **Not yet measured on a GPU**:
- tiles are the largest of those tried that compile for sm_90 and sm_80 without spilling registers in the
  short path, at the most programs a processor holds (`python -m jepa_kernels.compile_report` prints them);
- who is `taken` by `impl="auto"` follows from a roofline: attention inside sequences of N tokens is bound by
  memory up to N = 367 on an H200, where a kernel that reads qkv once and writes its gradient once wins; far
  above, tensor cores decide, and torch's kernels use them better.

The length that chooses a row is the layout's `max_len`: within a bucket, a sequence's result does not depend
on its neighbours, bit for bit.
"""

from typing import NamedTuple

import torch

SHORT = 128  # keys: the longest sequence whose keys and values stay resident
LONG = 0  # the bucket of all that is longer than the others
BUCKETS = (16, 32, 64, SHORT, 512)
WIDTHS = (16, 32, 64, 128)  # of a head, padded: a power of two, 16 at least, as tensor cores want it
WIDEST = WIDTHS[-1]


class Tiles(NamedTuple):
    """How one kernel is launched: a tile is queries x keys scores."""

    queries: int
    keys: int
    warps: int
    stages: int = 1


class Short(NamedTuple):
    """The short path's two kernels; their `keys` is the bucket."""

    forward: Tiles
    backward: Tiles


class General(NamedTuple):
    """The general path's three kernels."""

    forward: Tiles
    query_gradient: Tiles
    key_gradient: Tiles


class Row(NamedTuple):
    """What is done with one kind of input; no `short` where those kernels would spill, or are too long."""

    taken: bool
    short: Short | None
    general: General


T = Tiles
G16 = General(T(16, 16, 1), T(16, 16, 1), T(16, 16, 2))
G32 = General(T(32, 32, 2, 2), T(32, 32, 2, 2), T(32, 32, 4, 2))
G64 = General(T(64, 64, 4, 2), T(64, 64, 4, 2), T(64, 64, 4, 2))
G64W = General(T(64, 64, 8, 2), T(64, 64, 8, 2), T(64, 64, 8, 2))
F64 = General(T(64, 32, 4), T(64, 32, 4), T(32, 64, 4))
F32 = General(T(32, 32, 4), T(32, 32, 4), T(32, 32, 4))
F16 = General(T(16, 32, 4), T(16, 32, 4), T(32, 16, 4))

TABLE: dict[tuple[int, int, int], Row] = {
    # (padded head width, up to how many keys, bytes of a number)
    (16, 16, 2): Row(True, Short(T(16, 16, 1), T(16, 16, 1)), G16),
    (16, 32, 2): Row(True, Short(T(32, 32, 2), T(32, 32, 2)), G32),
    (16, 64, 2): Row(True, Short(T(64, 64, 4), T(64, 64, 4)), G64),
    (16, 128, 2): Row(True, Short(T(64, 128, 4, 2), T(32, 128, 4)), G64),
    (16, 512, 2): Row(True, None, G64),
    (16, LONG, 2): Row(False, None, G64),
    (32, 16, 2): Row(True, Short(T(16, 16, 1), T(16, 16, 2)), G16),
    (32, 32, 2): Row(True, Short(T(32, 32, 2), T(32, 32, 2)), G32),
    (32, 64, 2): Row(True, Short(T(64, 64, 4), T(64, 64, 4)), G64),
    (32, 128, 2): Row(True, Short(T(64, 128, 4), T(16, 128, 4, 2)), G64),
    (32, 512, 2): Row(True, None, G64),
    (32, LONG, 2): Row(False, None, G64),
    (64, 16, 2): Row(True, Short(T(16, 16, 1), T(16, 16, 2)), G16),
    (64, 32, 2): Row(True, Short(T(32, 32, 2), T(32, 32, 4)), G32),
    (64, 64, 2): Row(True, Short(T(64, 64, 4), T(32, 64, 4, 2)), G64),
    (64, 128, 2): Row(True, Short(T(64, 128, 4), T(16, 128, 4)), G64),
    (64, 512, 2): Row(True, None, G64),
    (64, LONG, 2): Row(False, None, G64),
    (128, 16, 2): Row(True, Short(T(16, 16, 2), T(16, 16, 2)), G16),
    (128, 32, 2): Row(True, Short(T(32, 32, 4), T(16, 32, 4)), G32),
    (128, 64, 2): Row(True, Short(T(64, 64, 4), T(16, 64, 4)), G64W),
    (128, 128, 2): Row(True, Short(T(32, 128, 4, 2), T(16, 128, 8)), G64W),
    (128, 512, 2): Row(True, None, G64W),
    (128, LONG, 2): Row(False, None, G64W),
    (16, 16, 4): Row(True, Short(T(16, 16, 1), T(16, 16, 2)), F64),
    (16, 32, 4): Row(True, Short(T(16, 32, 2), T(16, 32, 2)), F64),
    (16, 64, 4): Row(True, Short(T(16, 64, 4), T(16, 64, 4)), F64),
    (16, 128, 4): Row(True, None, F64),
    (16, 512, 4): Row(True, None, F64),
    (16, LONG, 4): Row(False, None, F64),
    (32, 16, 4): Row(True, Short(T(16, 16, 2), T(16, 16, 4)), F64),
    (32, 32, 4): Row(True, Short(T(16, 32, 4), T(16, 32, 4)), F64),
    (32, 64, 4): Row(True, Short(T(16, 64, 4), T(16, 64, 4)), F64),
    (32, 128, 4): Row(True, Short(T(16, 128, 8), T(16, 128, 8)), F64),
    (32, 512, 4): Row(True, None, F64),
    (32, LONG, 4): Row(False, None, F64),
    (64, 16, 4): Row(True, Short(T(16, 16, 2), T(16, 16, 4)), F32),
    (64, 32, 4): Row(True, Short(T(16, 32, 4), T(16, 32, 8)), F32),
    (64, 64, 4): Row(True, Short(T(32, 64, 8), T(16, 64, 8)), F32),
    (64, 128, 4): Row(True, None, F32),
    (64, 512, 4): Row(True, None, F32),
    (64, LONG, 4): Row(False, None, F32),
    (128, 16, 4): Row(True, None, F16),
    (128, 32, 4): Row(True, None, F16),
    (128, 64, 4): Row(True, None, F16),
    (128, 128, 4): Row(True, None, F16),
    (128, 512, 4): Row(True, None, F16),
    (128, LONG, 4): Row(False, None, F16),
}


def _longest(rows: dict[int, bool]) -> int:
    """The last bucket, from the shortest on, up to which every row says yes; -1 where none does."""
    no = [keys for keys in BUCKETS if not rows[keys]]
    return max([keys for keys in BUCKETS if not no or keys < no[0]], default=-1)


_KINDS = [(width, size) for width in WIDTHS for size in (2, 4)]
_SHORT_UP_TO = {
    kind: _longest({b: TABLE[kind[0], b, kind[1]].short is not None for b in BUCKETS}) for kind in _KINDS
}
_TAKEN_UP_TO = {kind: _longest({b: TABLE[kind[0], b, kind[1]].taken for b in BUCKETS}) for kind in _KINDS}


def padded(width: int) -> int:
    """The head width as the kernels see it, of WIDTHS."""
    return max(WIDTHS[0], 1 << (width - 1).bit_length())


def short_up_to(width: int, dtype: torch.dtype) -> int:
    """Plain sequences up to this many keys take the short path; one bound, since graphs guard on it."""
    return _SHORT_UP_TO[padded(width), dtype.itemsize]


def taken_up_to(width: int, dtype: torch.dtype) -> int:
    """`impl="auto"` takes Triton up to this many keys."""
    return _TAKEN_UP_TO[padded(width), dtype.itemsize]


def row_for(width: int, length: int, dtype: torch.dtype) -> Row:
    """The row for heads of `width` <= WIDEST that read up to `length` keys."""
    bucket = next((keys for keys in BUCKETS if length <= keys), LONG)
    return TABLE[padded(width), bucket, dtype.itemsize]
