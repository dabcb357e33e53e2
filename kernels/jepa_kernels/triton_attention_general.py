"""Attention of any layout in Triton: FlashAttention's tiles over ragged segments of one or two key ranges.

What is unusual: a segment's two key ranges are walked as one list, so that a tile may hold the end of the
first and the start of the second; the gradients of keys are summed by the program that owns them, over the
runs of queries that read them (`readers`), so that nothing is added atomically and every run gives the same
bits. Three kernels: forward (saves LSE = log2 of the sum of exponentials), dQ (leaves LSE and delta =
rowsum(dO * O) side by side, as one number of eight bytes a row, for the third), dK and dV.
    P = exp2(S - LSE), dV = P^T dO, dS = P * (dO V^T - delta), dQ = scale dS K, dK = scale dS^T Q
A query without keys has LSE = inf, so P = 0: its output and gradient are zero, without a special case.
Segments of `TAKEN` rows or fewer are left to the kernels of `triton_attention_short`.
Source: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2.

Axes: T packed rows, S segments, H heads, D head width, W and REST its padded parts; QUERIES and KEYS rows.
"""

import triton
import triton.language as tl

from jepa_kernels.triton_attention_parts import (
    add_mixed_rows,
    load_rows,
    row_products,
    scores_of,
    segment_of,
    store_rows,
    times,
    zeros_of,
)


@triton.jit
def _key_ranges(segment):
    """(first row and length of range a, first row of range b, length of both) of a row of `seg`."""
    a_start, a_len = tl.load(segment + 2), tl.load(segment + 3)
    b_start, b_len = tl.load(segment + 4), tl.load(segment + 5)
    return a_start, a_len, b_start, a_len + b_len


@triton.jit
def _queries_of(
    qkv,
    start,
    length,
    width,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(packed rows of the program's tile of queries, which of them are valid, the queries)."""
    at = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    rows, valid = (start + at).to(tl.int64), at < length
    return rows, valid, load_rows(qkv, rows, valid, 3 * width, D, W, REST, UPCAST)


@triton.jit
def _load_keys(
    qkv,
    ranges,
    first,
    width,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    KEYS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tiles of keys and values from place `first` on in the list of both ranges, and which are valid."""
    a_start, a_len, b_start, n_keys = ranges
    place = first + tl.arange(0, KEYS)
    valid = place < n_keys
    rows = tl.where(place < a_len, a_start + place, b_start + place - a_len).to(tl.int64)
    k = load_rows(qkv + width, rows, valid, 3 * width, D, W, REST, UPCAST)
    return k, load_rows(qkv + 2 * width, rows, valid, 3 * width, D, W, REST, UPCAST), valid


@triton.jit(do_not_specialize=["total", "heads"])  # T differs in every batch: not to be compiled for
def forward_kernel(
    qkv,  # [T, 3, H, D]
    seg,  # int32 [S, 6]
    out,  # [T, H, D], written
    lse,  # float32 [H, T], written
    total,
    heads,
    scale,
    TAKEN: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (segment and head, tile of queries): the softmax is summed up over tiles of keys."""
    segment, q_start, q_len, head = segment_of(seg, heads, 6)
    if (tl.program_id(1) * QUERIES >= q_len) | (q_len <= TAKEN):
        return
    ranges = _key_ranges(segment)
    width = heads * D
    qkv += head * D
    rows, here, q = _queries_of(qkv, q_start, q_len, width, D, W, REST, QUERIES, UPCAST)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total_weight = tl.zeros([QUERIES], tl.float32)
    mixed = zeros_of(QUERIES, W, REST)
    for first in range(0, ranges[3], KEYS):
        k, v, valid = _load_keys(qkv, ranges, first, width, D, W, REST, KEYS, UPCAST)
        scores = scores_of(q, k, valid, scale, REST, PRECISION)
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total_weight = total_weight * shrink + tl.sum(weights, 1)
        mixed = times(mixed, shrink[:, None], REST)
        mixed = add_mixed_rows(mixed, weights.to(v[0].dtype), v, REST, PRECISION)
        highest = higher
    read = total_weight > 0
    total_weight = tl.where(read, total_weight, 1.0)
    mixed = times(mixed, 1 / total_weight[:, None], REST)
    store_rows(out + head * D, rows, here, width, mixed, D, W, REST)
    log_sum = tl.where(read, highest + tl.log2(total_weight), float("inf"))
    tl.store(lse + head.to(tl.int64) * total + rows, log_sum, mask=here)


@triton.jit
def _pack_pair(log_sum, delta):
    """Both float32 as one int64: what eight bytes at a time are loaded as."""
    low = log_sum.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    return (delta.to(tl.int32, bitcast=True).to(tl.int64) << 32) | low


@triton.jit
def _unpack_pair(pair):
    log_sum = pair.to(tl.int32).to(tl.float32, bitcast=True)
    return log_sum, (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _row_delta(do, o, REST: tl.constexpr):
    """rowsum(dO * O)."""
    delta = tl.sum(do[0].to(tl.float32) * o[0].to(tl.float32), 1)
    if REST:
        delta += tl.sum(do[1].to(tl.float32) * o[1].to(tl.float32), 1)
    return delta


@triton.jit(do_not_specialize=["total", "heads"])
def query_gradient_kernel(
    qkv,  # [T, 3, H, D]
    out,  # [T, H, D]
    grad,  # [T, H, D], of the output
    lse,  # float32 [H, T]
    seg,  # int32 [S, 6]
    dqkv,  # [T, 3, H, D], its queries' part written
    stats,  # int64 [H, T], written: LSE and delta
    total,
    heads,
    scale,
    TAKEN: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (segment and head, tile of queries): dQ over tiles of keys."""
    segment, q_start, q_len, head = segment_of(seg, heads, 6)
    if (tl.program_id(1) * QUERIES >= q_len) | (q_len <= TAKEN):
        return
    ranges = _key_ranges(segment)
    width = heads * D
    qkv += head * D
    rows, here, q = _queries_of(qkv, q_start, q_len, width, D, W, REST, QUERIES, UPCAST)
    do = load_rows(grad + head * D, rows, here, width, D, W, REST, UPCAST)
    o = load_rows(out + head * D, rows, here, width, D, W, REST, UPCAST)
    delta = _row_delta(do, o, REST)
    place = head.to(tl.int64) * total + rows
    log_sum = tl.load(lse + place, mask=here, other=float("inf"))
    tl.store(stats + place, _pack_pair(log_sum, delta), mask=here)
    dq = zeros_of(QUERIES, W, REST)
    for first in range(0, ranges[3], KEYS):
        k, v, valid = _load_keys(qkv, ranges, first, width, D, W, REST, KEYS, UPCAST)
        probs = tl.exp2(scores_of(q, k, valid, scale, REST, PRECISION) - log_sum[:, None])
        ds = probs * (row_products(do, v, REST, PRECISION) - delta[:, None])
        dq = add_mixed_rows(dq, ds.to(k[0].dtype), k, REST, PRECISION)
    store_rows(dqkv + head * D, rows, here, 3 * width, times(dq, scale, REST), D, W, REST)


@triton.jit(do_not_specialize=["total", "heads"])
def key_gradient_kernel(
    qkv,  # [T, 3, H, D]
    grad,  # [T, H, D], of the output
    stats,  # int64 [H, T], LSE and delta
    pieces,  # int32 [P, 4] of `Readers`; PLAIN: int32 [S, 6], the segments
    runs,  # int32 [R, 2] of `Readers`; PLAIN: not read
    dqkv,  # [T, 3, H, D], its keys' and values' parts written
    total,
    heads,
    scale,
    TAKEN: tl.constexpr,
    PLAIN: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (piece and head, tile of keys): dK and dV over the query rows that read them."""
    piece, k_start, k_len, head = segment_of(pieces, heads, 6 if PLAIN else 4)
    at = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    if (tl.program_id(1) * KEYS >= k_len) | (k_len <= TAKEN):
        return
    first_run = 0 if PLAIN else tl.load(piece + 2)
    n_runs = 1 if PLAIN else tl.load(piece + 3)
    width = heads * D
    qkv += head * D
    dqkv += head * D
    grad += head * D
    stats += head.to(tl.int64) * total
    key_rows, here = (k_start + at).to(tl.int64), at < k_len
    k = load_rows(qkv + width, key_rows, here, 3 * width, D, W, REST, UPCAST)
    v = load_rows(qkv + 2 * width, key_rows, here, 3 * width, D, W, REST, UPCAST)
    dk, dv = zeros_of(KEYS, W, REST), zeros_of(KEYS, W, REST)
    for run in range(first_run, first_run + n_runs):
        q_start = k_start if PLAIN else tl.load(runs + run * 2)
        q_len = k_len if PLAIN else tl.load(runs + run * 2 + 1)
        for first in range(0, q_len, QUERIES):
            place = first + tl.arange(0, QUERIES)
            rows, valid = (q_start + place).to(tl.int64), place < q_len
            q = load_rows(qkv, rows, valid, 3 * width, D, W, REST, UPCAST)
            do = load_rows(grad, rows, valid, width, D, W, REST, UPCAST)
            log_sum, delta = _unpack_pair(tl.load(stats + rows, mask=valid, other=0))
            # [keys, queries]: already transposed; a row past the end is a query of -inf scores
            scores = scores_of(k, q, valid, scale, REST, PRECISION)
            probs = tl.exp2(scores - log_sum[None, :])
            dv = add_mixed_rows(dv, probs.to(do[0].dtype), do, REST, PRECISION)
            ds = probs * (row_products(v, do, REST, PRECISION) - delta[None, :])
            dk = add_mixed_rows(dk, ds.to(q[0].dtype), q, REST, PRECISION)
    store_rows(dqkv + width, key_rows, here, 3 * width, times(dk, scale, REST), D, W, REST)
    store_rows(dqkv + 2 * width, key_rows, here, 3 * width, dv, D, W, REST)
