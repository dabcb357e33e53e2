"""Attention of short plain sequences in Triton: one program a sequence and head, keys and values resident.

What is unusual: since a program sees all keys of a query at once, its backward makes the softmax again from
qkv alone. Nothing is saved in the forward, neither the log-sum nor the output is read, and dqkv is written
once: 14 bytes a number in bf16, against 26 for the usual pair of backward kernels.
    S = scale q k^T, P = softmax(S), O = P V
    dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(P * dP)), dQ = scale dS K, dK = scale dS^T Q

Axes: T packed rows, S sequences, H heads, D head width, W the same padded; QUERIES and KEYS rows of a tile.
"""

import triton
import triton.language as tl

from jepa_kernels.triton_attention_parts import load_rows, scores_of, store_rows


@triton.jit
def forward_kernel(
    qkv,  # [T, 3, H, D]
    seg,  # int32 [S, 6]; the first two columns are read: start, length (at most KEYS)
    out,  # [T, H, D], written
    heads,
    scale,
    D: tl.constexpr,
    W: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (sequence, head): a loop over tiles of queries."""
    sequence, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    start, length = tl.load(seg + sequence * 6).to(tl.int64), tl.load(seg + sequence * 6 + 1)
    width = heads * D
    qkv += start * 3 * width + head * D
    out += start * width + head * D
    keys = tl.arange(0, KEYS)
    k = load_rows(qkv + width, keys, keys < length, 3 * width, D, W, UPCAST)
    v = load_rows(qkv + 2 * width, keys, keys < length, 3 * width, D, W, UPCAST)
    for first in range(0, length, QUERIES):
        rows = first + tl.arange(0, QUERIES)
        q = load_rows(qkv, rows, rows < length, 3 * width, D, W, UPCAST)
        scores = scores_of(q, k, keys < length, scale, PRECISION)
        probs = tl.exp2(scores - tl.max(scores, 1)[:, None])
        mixed = tl.dot(probs.to(v.dtype), v, input_precision=PRECISION) / tl.sum(probs, 1)[:, None]
        store_rows(out, rows, rows < length, width, mixed, D, W)


@triton.jit
def backward_kernel(
    qkv,  # [T, 3, H, D]
    grad,  # [T, H, D], of the output
    seg,  # as above
    dqkv,  # [T, 3, H, D], written
    heads,
    scale,
    D: tl.constexpr,
    W: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (sequence, head): dK and dV are summed over a loop of query tiles, dQ is stored in it."""
    sequence, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    start, length = tl.load(seg + sequence * 6).to(tl.int64), tl.load(seg + sequence * 6 + 1)
    width = heads * D
    qkv += start * 3 * width + head * D
    dqkv += start * 3 * width + head * D
    grad += start * width + head * D
    keys = tl.arange(0, KEYS)
    k = load_rows(qkv + width, keys, keys < length, 3 * width, D, W, UPCAST)
    v = load_rows(qkv + 2 * width, keys, keys < length, 3 * width, D, W, UPCAST)
    dk, dv = tl.zeros([KEYS, W], tl.float32), tl.zeros([KEYS, W], tl.float32)
    for first in range(0, length, QUERIES):
        rows = first + tl.arange(0, QUERIES)
        q = load_rows(qkv, rows, rows < length, 3 * width, D, W, UPCAST)
        do = load_rows(grad, rows, rows < length, width, D, W, UPCAST)
        scores = scores_of(q, k, keys < length, scale, PRECISION)
        probs = tl.exp2(scores - tl.max(scores, 1)[:, None])
        probs = probs / tl.sum(probs, 1)[:, None]
        dv += tl.dot(tl.trans(probs.to(do.dtype)), do, input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        ds = (probs * (dp - tl.sum(probs * dp, 1)[:, None])).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q, input_precision=PRECISION)
        dq = tl.dot(ds, k, input_precision=PRECISION) * scale
        store_rows(dqkv, rows, rows < length, 3 * width, dq, D, W)
    store_rows(dqkv + width, keys, keys < length, 3 * width, dk * scale, D, W)
    store_rows(dqkv + 2 * width, keys, keys < length, 3 * width, dv, D, W)
