"""Attention of any layout in Triton: FlashAttention's tiles over ragged segments of one or two key ranges.

What is unusual: a segment's two key ranges are walked as one list, so that a tile may hold the end of the
first and the start of the second; the gradients of keys are summed by the program that owns them, over the
runs of queries that read them (`readers`), so that nothing is added atomically and every run gives the same
bits. Three kernels: forward (saves LSE = log2 of the sum of exponentials), dQ (leaves delta = rowsum(dO * O)
for the third), dK and dV.
    P = exp2(S - LSE), dV = P^T dO, dS = P * (dO V^T - delta), dQ = scale dS K, dK = scale dS^T Q
A query without keys has LSE = inf, so P = 0: its output and gradient are zero, without a special case.
Source: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2.

Axes: T packed rows, S segments, H heads, D head width, W the same padded; QUERIES and KEYS rows of a tile.
"""

import triton
import triton.language as tl

from jepa_kernels.triton_attention_parts import load_rows, scores_of, store_rows


@triton.jit
def _key_rows(place, a_start, a_len, b_start):
    """Packed rows (int64) at `place` in the list of both key ranges."""
    return tl.where(place < a_len, a_start + place, b_start + place - a_len).to(tl.int64)


@triton.jit(do_not_specialize=["total"])  # T differs in every batch: not to be compiled for
def forward_kernel(
    qkv,  # [T, 3, H, D]
    seg,  # int32 [S, 6]
    out,  # [T, H, D], written
    lse,  # float32 [H, T], written
    total,
    heads,
    scale,
    D: tl.constexpr,
    W: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (segment and head, tile of queries): the softmax is summed up over tiles of keys."""
    seg += tl.program_id(0) // heads * 6
    head = tl.program_id(0) % heads
    q_start, q_len = tl.load(seg), tl.load(seg + 1)
    a_start, a_len, b_start, b_len = tl.load(seg + 2), tl.load(seg + 3), tl.load(seg + 4), tl.load(seg + 5)
    at = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    if tl.program_id(1) * QUERIES >= q_len:
        return
    width = heads * D
    qkv += head * D
    rows = (q_start + at).to(tl.int64)
    q = load_rows(qkv, rows, at < q_len, 3 * width, D, W, UPCAST)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total_weight = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, W], tl.float32)
    for first in range(0, a_len + b_len, KEYS):
        place = first + tl.arange(0, KEYS)
        valid = place < a_len + b_len
        key_rows = _key_rows(place, a_start, a_len, b_start)
        k = load_rows(qkv + width, key_rows, valid, 3 * width, D, W, UPCAST)
        v = load_rows(qkv + 2 * width, key_rows, valid, 3 * width, D, W, UPCAST)
        scores = scores_of(q, k, valid, scale, PRECISION)
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total_weight = total_weight * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        highest = higher
    read = total_weight > 0
    total_weight = tl.where(read, total_weight, 1.0)
    store_rows(out + head * D, rows, at < q_len, width, mixed / total_weight[:, None], D, W)
    log_sum = tl.where(read, highest + tl.log2(total_weight), float("inf"))
    tl.store(lse + head.to(tl.int64) * total + rows, log_sum, mask=at < q_len)


@triton.jit(do_not_specialize=["total"])  # T differs in every batch: not to be compiled for
def query_gradient_kernel(
    qkv,  # [T, 3, H, D]
    out,  # [T, H, D]
    grad,  # [T, H, D], of the output
    lse,  # float32 [H, T]
    seg,  # int32 [S, 6]
    dqkv,  # [T, 3, H, D], its queries' part written
    delta,  # float32 [H, T], written
    total,
    heads,
    scale,
    D: tl.constexpr,
    W: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (segment and head, tile of queries): dQ over tiles of keys."""
    seg += tl.program_id(0) // heads * 6
    head = tl.program_id(0) % heads
    q_start, q_len = tl.load(seg), tl.load(seg + 1)
    a_start, a_len, b_start, b_len = tl.load(seg + 2), tl.load(seg + 3), tl.load(seg + 4), tl.load(seg + 5)
    at = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    if tl.program_id(1) * QUERIES >= q_len:
        return
    width = heads * D
    qkv += head * D
    rows, here = (q_start + at).to(tl.int64), at < q_len
    q = load_rows(qkv, rows, here, 3 * width, D, W, UPCAST)
    do = load_rows(grad + head * D, rows, here, width, D, W, UPCAST)
    o = load_rows(out + head * D, rows, here, width, D, W, UPCAST)
    row_delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + head.to(tl.int64) * total + rows, row_delta, mask=here)
    log_sum = tl.load(lse + head.to(tl.int64) * total + rows, mask=here, other=float("inf"))
    dq = tl.zeros([QUERIES, W], tl.float32)
    for first in range(0, a_len + b_len, KEYS):
        place = first + tl.arange(0, KEYS)
        valid = place < a_len + b_len
        key_rows = _key_rows(place, a_start, a_len, b_start)
        k = load_rows(qkv + width, key_rows, valid, 3 * width, D, W, UPCAST)
        v = load_rows(qkv + 2 * width, key_rows, valid, 3 * width, D, W, UPCAST)
        probs = tl.exp2(scores_of(q, k, valid, scale, PRECISION) - log_sum[:, None])
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        ds = probs * (dp - row_delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
    store_rows(dqkv + head * D, rows, here, 3 * width, dq * scale, D, W)


@triton.jit(do_not_specialize=["total"])  # T differs in every batch: not to be compiled for
def key_gradient_kernel(
    qkv,  # [T, 3, H, D]
    grad,  # [T, H, D], of the output
    lse,  # float32 [H, T]
    delta,  # float32 [H, T]
    pieces,  # int32 [P, 4] of `Readers`; PLAIN: int32 [S, 6], the segments
    runs,  # int32 [R, 2] of `Readers`; PLAIN: not read
    dqkv,  # [T, 3, H, D], its keys' and values' parts written
    total,
    heads,
    scale,
    D: tl.constexpr,
    W: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PLAIN: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (piece and head, tile of keys): dK and dV over the query rows that read them."""
    pieces += tl.program_id(0) // heads * (6 if PLAIN else 4)
    head = tl.program_id(0) % heads
    k_start, k_len = tl.load(pieces), tl.load(pieces + 1)
    first_run = 0 if PLAIN else tl.load(pieces + 2)
    n_runs = 1 if PLAIN else tl.load(pieces + 3)
    at = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    if tl.program_id(1) * KEYS >= k_len:
        return
    width = heads * D
    qkv += head * D
    dqkv += head * D
    lse += head.to(tl.int64) * total
    delta += head.to(tl.int64) * total
    key_rows, here = (k_start + at).to(tl.int64), at < k_len
    k = load_rows(qkv + width, key_rows, here, 3 * width, D, W, UPCAST)
    v = load_rows(qkv + 2 * width, key_rows, here, 3 * width, D, W, UPCAST)
    dk, dv = tl.zeros([KEYS, W], tl.float32), tl.zeros([KEYS, W], tl.float32)
    for run in range(first_run, first_run + n_runs):
        q_start = k_start if PLAIN else tl.load(runs + run * 2)
        q_len = k_len if PLAIN else tl.load(runs + run * 2 + 1)
        for first in range(0, q_len, QUERIES):
            place = first + tl.arange(0, QUERIES)
            rows, valid = (q_start + place).to(tl.int64), place < q_len
            q = load_rows(qkv, rows, valid, 3 * width, D, W, UPCAST)
            do = load_rows(grad + head * D, rows, valid, width, D, W, UPCAST)
            log_sum = tl.load(lse + rows, mask=valid, other=float("inf"))
            row_delta = tl.load(delta + rows, mask=valid, other=0.0)
            scores = scores_of(k, q, valid, scale, PRECISION)  # [keys, queries]: already transposed
            probs = tl.exp2(scores - log_sum[None, :])
            dv += tl.dot(probs.to(do.dtype), do, input_precision=PRECISION)
            dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
            ds = probs * (dp - row_delta[None, :])
            dk += tl.dot(ds.to(q.dtype), q, input_precision=PRECISION)
    store_rows(dqkv + width, key_rows, here, 3 * width, dk * scale, D, W)
    store_rows(dqkv + 2 * width, key_rows, here, 3 * width, dv, D, W)
