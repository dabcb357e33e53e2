"""Attention of short plain sequences in Triton: one program a sequence and head, keys and values resident.

A class of lengths is one launch over all sequences: programs whose sequence has OVER rows or fewer, or more
than KEYS, return at once, for another launch has them. So the host reads no length, and how a sequence
is computed depends on its own length alone. What is unusual besides: since a program sees all keys of a
query at once, its backward makes the softmax again from qkv alone. Nothing is saved in the forward, neither
the log-sum nor the output is read, and dqkv is written once: 14 bytes a number in bf16, against 26 for the
usual pair of backward kernels. Where a tile holds all queries as well, no loop keeps sums in registers.
    S = scale q k^T, P = softmax(S), O = P V
    dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(P * dP)), dQ = scale dS K, dK = scale dS^T Q

Axes: T packed rows, S sequences, H heads, D head width, W and REST its padded parts; QUERIES and KEYS rows.
"""

import triton
import triton.language as tl

from jepa_kernels.triton_attention_parts import (
    add_mixed_rows,
    load_rows,
    mixed_rows,
    row_products,
    scores_of,
    segment_of,
    store_rows,
    times,
    zeros_of,
)


@triton.jit
def _keys_of(
    qkv,
    start,
    length,
    head,
    width,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    KEYS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(where the sequence's first query is, its rows, which of them are valid, all keys, all values)."""
    qkv += start.to(tl.int64) * 3 * width + head * D
    rows = tl.arange(0, KEYS)
    valid = rows < length
    k = load_rows(qkv + width, rows, valid, 3 * width, D, W, REST, UPCAST)
    v = load_rows(qkv + 2 * width, rows, valid, 3 * width, D, W, REST, UPCAST)
    return qkv, rows, valid, k, v


@triton.jit
def _softmax(q, k, valid, scale, REST: tl.constexpr, PRECISION: tl.constexpr):
    """(exponentials [queries, keys], their sums [queries])."""
    scores = scores_of(q, k, valid, scale, REST, PRECISION)
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return weights, tl.sum(weights, 1)


@triton.jit
def _probabilities(q, k, valid, scale, REST: tl.constexpr, PRECISION: tl.constexpr):
    weights, sums = _softmax(q, k, valid, scale, REST, PRECISION)
    return weights / sums[:, None]


@triton.jit
def _score_gradient(probs, do, v, REST: tl.constexpr, PRECISION: tl.constexpr):
    """dS, but for the scale, in the type of `do`."""
    dp = row_products(do, v, REST, PRECISION)
    return (probs * (dp - tl.sum(probs * dp, 1)[:, None])).to(do[0].dtype)


@triton.jit(do_not_specialize=["heads"])
def forward_kernel(
    qkv,  # [T, 3, H, D]
    seg,  # int32 [S, 6]; the first two columns are read: start, length
    out,  # [T, H, D], written
    heads,
    scale,
    OVER: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (sequence, head): all queries at once, or a loop over tiles of them."""
    _, start, length, head = segment_of(seg, heads, 6)
    if (length <= OVER) | (length > KEYS):
        return
    width = heads * D
    qkv, _, valid, k, v = _keys_of(qkv, start, length, head, width, D, W, REST, KEYS, UPCAST)
    out += start.to(tl.int64) * width + head * D
    for first in range(0, length if QUERIES < KEYS else 1, QUERIES):
        rows = first + tl.arange(0, QUERIES)
        q = load_rows(qkv, rows, rows < length, 3 * width, D, W, REST, UPCAST)
        weights, sums = _softmax(q, k, valid, scale, REST, PRECISION)
        mixed = mixed_rows(weights.to(v[0].dtype), v, REST, PRECISION)
        store_rows(out, rows, rows < length, width, times(mixed, 1 / sums[:, None], REST), D, W, REST)


@triton.jit(do_not_specialize=["heads"])
def backward_kernel(
    qkv,  # [T, 3, H, D]
    grad,  # [T, H, D], of the output
    seg,  # as above
    dqkv,  # [T, 3, H, D], written
    heads,
    scale,
    OVER: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (sequence, head). With all queries in one tile each gradient is stored as soon as it is known;
    else dK and dV are summed over a loop of query tiles, and dQ is stored in it."""
    _, start, length, head = segment_of(seg, heads, 6)
    if (length <= OVER) | (length > KEYS):
        return
    width = heads * D
    qkv, keys, valid, k, v = _keys_of(qkv, start, length, head, width, D, W, REST, KEYS, UPCAST)
    dqkv += start.to(tl.int64) * 3 * width + head * D
    grad += start.to(tl.int64) * width + head * D
    if QUERIES == KEYS:
        q = load_rows(qkv, keys, valid, 3 * width, D, W, REST, UPCAST)
        do = load_rows(grad, keys, valid, width, D, W, REST, UPCAST)
        probs = _probabilities(q, k, valid, scale, REST, PRECISION)
        dv = mixed_rows(tl.trans(probs.to(do[0].dtype)), do, REST, PRECISION)
        store_rows(dqkv + 2 * width, keys, valid, 3 * width, dv, D, W, REST)
        ds = _score_gradient(probs, do, v, REST, PRECISION)
        dk = mixed_rows(tl.trans(ds), q, REST, PRECISION)
        store_rows(dqkv + width, keys, valid, 3 * width, times(dk, scale, REST), D, W, REST)
        dq = mixed_rows(ds, k, REST, PRECISION)
        store_rows(dqkv, keys, valid, 3 * width, times(dq, scale, REST), D, W, REST)
    else:
        dk, dv = zeros_of(KEYS, W, REST), zeros_of(KEYS, W, REST)
        for first in range(0, length, QUERIES):
            rows = first + tl.arange(0, QUERIES)
            q = load_rows(qkv, rows, rows < length, 3 * width, D, W, REST, UPCAST)
            do = load_rows(grad, rows, rows < length, width, D, W, REST, UPCAST)
            probs = _probabilities(q, k, valid, scale, REST, PRECISION)
            dv = add_mixed_rows(dv, tl.trans(probs.to(do[0].dtype)), do, REST, PRECISION)
            ds = _score_gradient(probs, do, v, REST, PRECISION)
            dk = add_mixed_rows(dk, tl.trans(ds), q, REST, PRECISION)
            dq = times(mixed_rows(ds, k, REST, PRECISION), scale, REST)
            store_rows(dqkv, rows, rows < length, 3 * width, dq, D, W, REST)
        store_rows(dqkv + width, keys, valid, 3 * width, times(dk, scale, REST), D, W, REST)
        store_rows(dqkv + 2 * width, keys, valid, 3 * width, dv, D, W, REST)
