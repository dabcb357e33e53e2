"""Attention in Triton as operations of torch: what is launched with which tiles, and how it differentiates.

Two paths: short plain sequences, where the table has a row for them, go to `triton_attention_short`, all else
to `triton_attention_general`. Each is an opaque operation with a backward operation, so that a compiled
graph holds one node a direction, whatever the lengths. What is unusual: lengths enter the operations as
plain ints and choose tiles inside, so that a compiled graph is not specialised on them.

Axes: T packed rows, S segments, H heads, D head width.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from jepa_kernels import triton_attention_general as general
from jepa_kernels import triton_attention_short as short
from jepa_kernels.layout import Layout
from jepa_kernels.library import backward_of, operation
from jepa_kernels.triton_attention_table import Short, Tiles, padded, row_for, short_up_to

INTERPRETED = not isinstance(short.forward_kernel, JITFunction)
"""Whether TRITON_INTERPRET=1 was set when the kernels were loaded: they then run on CPU tensors."""


def triton_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] -> [T, H, D]; see `jepa_kernels.attention.block_attention`, which checks the input."""
    width, max_len = qkv.shape[3], layout.max_len
    if layout.plain and max_len <= short_up_to(width, qkv.dtype):
        return short_attention(qkv, layout.seg, max_len, scale)
    pieces, runs, longest = layout.seg, layout.seg, layout.max_queries
    if layout.readers is not None:
        pieces, runs, longest = layout.readers.pieces, layout.readers.runs, layout.readers.longest
    lengths = (max_len, layout.max_queries, longest)
    return general_attention(qkv, layout.seg, pieces, runs, *lengths, layout.readers is None, scale)[0]


def constants(width: int, dtype: torch.dtype, tiles: Tiles) -> dict[str, Any]:
    """The compile-time arguments of every kernel."""
    return {
        "D": width,
        "W": padded(width),
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "tf32",
        "UPCAST": INTERPRETED and dtype == torch.bfloat16,
    }


def _launch(kernel: Any, grid: tuple[int, ...], qkv: Tensor, tiles: Tiles, *args: Any, **more: Any) -> None:
    """Runs `kernel` on the device of qkv, unless the grid is empty."""
    if 0 in grid:
        return
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}
    with torch.cuda.device_of(qkv):
        kernel[grid](*args, **constants(qkv.shape[3], qkv.dtype, tiles), **more, **options)


def _short(qkv: Tensor, max_len: int) -> Short:
    found = row_for(qkv.shape[3], max_len, qkv.dtype).short
    assert found is not None, f"no short path for {qkv.shape[3]=}, {max_len=}, {qkv.dtype}"
    return found


def _like_output(qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)


@operation("short_attention(Tensor qkv, Tensor seg, SymInt max_len, float scale) -> Tensor", _like_output)
def short_attention(qkv: Tensor, seg: Tensor, max_len: int, scale: float) -> Tensor:
    """qkv [T, 3, H, D] and plain segments int32 [S, 6] of at most max_len rows -> [T, H, D]."""
    out, heads = _like_output(qkv), qkv.shape[2]
    tiles = _short(qkv, max_len).forward
    _launch(short.forward_kernel, (len(seg) * heads,), qkv, tiles, qkv, seg, out, heads, scale)
    return out


@operation(
    "short_attention_backward(Tensor grad, Tensor qkv, Tensor seg, SymInt max_len, float scale) -> Tensor",
    lambda grad, qkv, *_: torch.empty_like(qkv),
)
def short_attention_backward(grad: Tensor, qkv: Tensor, seg: Tensor, max_len: int, scale: float) -> Tensor:
    """The gradient of qkv [T, 3, H, D], from that of the output [T, H, D]."""
    dqkv, heads = torch.empty_like(qkv), qkv.shape[2]
    tiles = _short(qkv, max_len).backward
    args = (qkv, grad.contiguous(), seg, dqkv, heads, scale)
    _launch(short.backward_kernel, (len(seg) * heads,), qkv, tiles, *args)
    return dqkv


def _like_general(qkv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like_output(qkv), qkv.new_empty(qkv.shape[2], qkv.shape[0], dtype=torch.float32)


@operation(
    "general_attention(Tensor qkv, Tensor seg, Tensor pieces, Tensor runs, SymInt max_len, "
    "SymInt max_queries, SymInt longest_piece, bool plain, float scale) -> (Tensor, Tensor)",
    _like_general,
)
def general_attention(
    qkv: Tensor,
    seg: Tensor,
    pieces: Tensor,
    runs: Tensor,
    max_len: int,
    max_queries: int,
    longest_piece: int,
    plain: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """qkv [T, 3, H, D] and any segments int32 [S, 6] -> [T, H, D], and LSE (base 2) float32 [H, T].

    pieces, runs, longest_piece: see `Readers`; only the backward reads them (where `plain`, nothing does)
    """
    out, lse = _like_general(qkv)
    total, heads = qkv.shape[0], qkv.shape[2]
    tiles = row_for(qkv.shape[3], max_len, qkv.dtype).general.forward
    grid = (len(seg) * heads, triton.cdiv(max_queries, tiles.queries))
    _launch(general.forward_kernel, grid, qkv, tiles, qkv, seg, out, lse, total, heads, scale)
    return out, lse


@operation(
    "general_attention_backward(Tensor grad, Tensor qkv, Tensor out, Tensor lse, Tensor seg, Tensor pieces, "
    "Tensor runs, SymInt max_len, SymInt max_queries, SymInt longest_piece, bool plain, float scale) "
    "-> Tensor",
    lambda grad, qkv, *_: torch.empty_like(qkv),
)
def general_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    seg: Tensor,
    pieces: Tensor,
    runs: Tensor,
    max_len: int,
    max_queries: int,
    longest_piece: int,
    plain: bool,
    scale: float,
) -> Tensor:
    """The gradient of qkv [T, 3, H, D], from that of the output and from what the forward gave."""
    grad, dqkv, delta = grad.contiguous(), torch.empty_like(qkv), torch.empty_like(lse)
    numbers = (qkv.shape[0], qkv.shape[2], scale)
    table = row_for(qkv.shape[3], max_len, qkv.dtype).general
    tiles = table.query_gradient
    grid = (len(seg) * qkv.shape[2], triton.cdiv(max_queries, tiles.queries))
    args: tuple[Any, ...] = (qkv, out, grad, lse, seg, dqkv, delta, *numbers)
    _launch(general.query_gradient_kernel, grid, qkv, tiles, *args)
    tiles = table.key_gradient
    grid = (len(pieces) * qkv.shape[2], triton.cdiv(longest_piece, tiles.keys))
    args = (qkv, grad, lse, delta, pieces, runs, dqkv, *numbers)
    _launch(general.key_gradient_kernel, grid, qkv, tiles, *args, PLAIN=plain)
    return dqkv


def _save_short(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, seg, ctx.max_len, ctx.scale = inputs
    ctx.save_for_backward(qkv, seg)


@backward_of(short_attention, _save_short)
def _short_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return short_attention_backward(grad, *ctx.saved_tensors, ctx.max_len, ctx.scale), None, None, None


def _save_general(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, seg, pieces, runs, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, *output, seg, pieces, runs)
    ctx.mark_non_differentiable(output[1])


@backward_of(general_attention, _save_general)
def _general_gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return general_attention_backward(grad, *ctx.saved_tensors, *ctx.numbers), *([None] * 8)
