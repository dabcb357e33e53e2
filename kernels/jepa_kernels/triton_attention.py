"""Attention in Triton as operations of torch: what is launched with which tiles, and how it differentiates.

Plain sequences go to a class by their length (`triton_attention_short`), each class one launch over all of
them; longer ones, and every layout whose segments read other rows, go to `triton_attention_general`, whose
launches come last. Two opaque operations with a backward operation each, so that a compiled graph holds one
node a direction, whatever the lengths. What is unusual: lengths enter the operations as plain ints and choose
launches inside, so that a compiled graph is not specialised on them; they are bounds, and none decides how a
sequence is computed.

Axes: T packed rows, S segments, H heads, D head width.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import JITFunction

from jepa_kernels import triton_attention_general as general
from jepa_kernels import triton_attention_short as short
from jepa_kernels.layout import Layout
from jepa_kernels.library import backward_of, operation
from jepa_kernels.triton_attention_table import (
    NEWEST,
    SMALL,
    General,
    LengthClass,
    Row,
    Tiles,
    parts,
    row_for,
    short_bound,
)

INTERPRETED = not isinstance(short.forward_kernel, JITFunction)
"""Whether TRITON_INTERPRET=1 was set when the kernels were loaded: they then run on CPU tensors."""


def triton_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] -> [T, H, D]; see `jepa_kernels.attention.block_attention`, which checks the input."""
    bounds = (layout.min_len, layout.max_len)
    if layout.plain and layout.max_len <= short_bound(qkv.shape[3], qkv.dtype):
        return short_attention(qkv, layout.seg, *bounds, scale)
    pieces, runs, longest = layout.seg, layout.seg, layout.max_queries
    if layout.readers is not None:
        pieces, runs, longest = layout.readers.pieces, layout.readers.runs, layout.readers.longest
    lengths = (*bounds, layout.max_queries, longest)
    return general_attention(qkv, layout.seg, pieces, runs, *lengths, layout.readers is None, scale)[0]


def constants(width: int, dtype: torch.dtype, tiles: Tiles) -> dict[str, Any]:
    """The compile-time arguments of every kernel."""
    first, rest = parts(width, tiles.whole or dtype == torch.float32)
    return {
        "D": width,
        "W": first,
        "REST": rest,
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "tf32",
        "UPCAST": INTERPRETED and dtype == torch.bfloat16,
    }


def options(tiles: Tiles) -> dict[str, Any]:
    """The launch options for the compiler."""
    choices = {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}
    return choices | ({"maxnreg": tiles.registers} if tiles.registers else {})


def launch(kernel: Any, grid: tuple[int, ...], qkv: Tensor, tiles: Tiles, *args: Any, **more: Any) -> None:
    """Runs `kernel` in these tiles on the device of qkv, unless the grid is empty."""
    if 0 in grid:
        return
    with torch.cuda.device_of(qkv):
        kernel[grid](*args, **constants(qkv.shape[3], qkv.dtype, tiles), **more, **options(tiles))


@cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _row(qkv: Tensor) -> Row:
    capability = _capability(qkv.device) if qkv.device.type == "cuda" else NEWEST
    return row_for(qkv.shape[3], qkv.dtype, capability)


def _classes(qkv: Tensor, min_len: int, max_len: int) -> Iterator[LengthClass]:
    """The classes that sequences of `min_len` to `max_len` rows may belong to."""
    return (c for c in _row(qkv).classes if c.keys >= min_len and c.over < max_len)


def _forward_classes(qkv: Tensor, seg: Tensor, out: Tensor, bounds: tuple[int, int], scale: float) -> None:
    grid, heads = (len(seg) * qkv.shape[2],), qkv.shape[2]
    for length_class in _classes(qkv, *bounds):
        args = (qkv, seg, out, heads, scale)
        launch(short.forward_kernel, grid, qkv, length_class.forward, *args, OVER=length_class.over)


def _backward_classes(
    qkv: Tensor, grad: Tensor, seg: Tensor, dqkv: Tensor, bounds: tuple[int, int], scale: float
) -> None:
    grid, heads = (len(seg) * qkv.shape[2],), qkv.shape[2]
    for length_class in _classes(qkv, *bounds):
        args = (qkv, grad, seg, dqkv, heads, scale)
        launch(short.backward_kernel, grid, qkv, length_class.backward, *args, OVER=length_class.over)


def _general_tiles(qkv: Tensor, max_len: int, plain: bool) -> tuple[General, int]:
    """(tiles, class bound: segments of so many rows or fewer are left to the short path)."""
    row = _row(qkv)
    if plain:
        return row.general, row.short_bound
    return (row.small if max_len <= SMALL else row.general), 0


def _like_output(qkv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)


@operation(
    "short_attention(Tensor qkv, Tensor seg, SymInt min_len, SymInt max_len, float scale) -> Tensor",
    _like_output,
)
def short_attention(qkv: Tensor, seg: Tensor, min_len: int, max_len: int, scale: float) -> Tensor:
    """qkv [T, 3, H, D] and plain segments int32 [S, 6] that all belong to a class -> [T, H, D]."""
    out = _like_output(qkv)
    _forward_classes(qkv, seg, out, (min_len, max_len), scale)
    return out


@operation(
    "short_attention_backward(Tensor grad, Tensor qkv, Tensor seg, SymInt min_len, SymInt max_len, "
    "float scale) -> Tensor",
    lambda grad, qkv, *_: torch.empty_like(qkv),
)
def short_attention_backward(
    grad: Tensor, qkv: Tensor, seg: Tensor, min_len: int, max_len: int, scale: float
) -> Tensor:
    """The gradient of qkv [T, 3, H, D], from that of the output [T, H, D]."""
    dqkv = torch.empty_like(qkv)
    _backward_classes(qkv, grad.contiguous(), seg, dqkv, (min_len, max_len), scale)
    return dqkv


def _like_general(qkv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like_output(qkv), qkv.new_empty(qkv.shape[2], qkv.shape[0], dtype=torch.float32)


@operation(
    "general_attention(Tensor qkv, Tensor seg, Tensor pieces, Tensor runs, SymInt min_len, SymInt max_len, "
    "SymInt max_queries, SymInt longest_piece, bool plain, float scale) -> (Tensor, Tensor)",
    _like_general,
)
def general_attention(
    qkv: Tensor,
    seg: Tensor,
    pieces: Tensor,
    runs: Tensor,
    min_len: int,
    max_len: int,
    max_queries: int,
    longest_piece: int,
    plain: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """qkv [T, 3, H, D] and any segments int32 [S, 6] -> [T, H, D], and LSE (base 2) float32 [H, T].

    pieces, runs, longest_piece: see `Readers`; only the backward reads them (where `plain`, nothing does)
    LSE is written only for rows that no class of the short path takes.
    """
    out, lse = _like_general(qkv)
    total, heads = qkv.shape[0], qkv.shape[2]
    if plain:
        _forward_classes(qkv, seg, out, (min_len, max_len), scale)
    (tiles, _, _), class_bound = _general_tiles(qkv, max_len, plain)
    grid = (len(seg) * heads, triton.cdiv(max_queries, tiles.queries))
    args = (qkv, seg, out, lse, total, heads, scale)
    launch(general.forward_kernel, grid, qkv, tiles, *args, TAKEN=class_bound)
    return out, lse


@operation(
    "general_attention_backward(Tensor grad, Tensor qkv, Tensor out, Tensor lse, Tensor seg, Tensor pieces, "
    "Tensor runs, SymInt min_len, SymInt max_len, SymInt max_queries, SymInt longest_piece, bool plain, "
    "float scale) -> Tensor",
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
    min_len: int,
    max_len: int,
    max_queries: int,
    longest_piece: int,
    plain: bool,
    scale: float,
) -> Tensor:
    """The gradient of qkv [T, 3, H, D], from that of the output and from what the forward gave."""
    grad, dqkv, stats = grad.contiguous(), torch.empty_like(qkv), torch.empty_like(lse, dtype=torch.int64)
    numbers = (qkv.shape[0], qkv.shape[2], scale)
    if plain:
        _backward_classes(qkv, grad, seg, dqkv, (min_len, max_len), scale)
    (_, tiles, of_keys), class_bound = _general_tiles(qkv, max_len, plain)
    grid = (len(seg) * qkv.shape[2], triton.cdiv(max_queries, tiles.queries))
    args: tuple[Any, ...] = (qkv, out, grad, lse, seg, dqkv, stats, *numbers)
    launch(general.query_gradient_kernel, grid, qkv, tiles, *args, TAKEN=class_bound)
    grid = (len(pieces) * qkv.shape[2], triton.cdiv(longest_piece, of_keys.keys))
    args = (qkv, grad, stats, pieces, runs, dqkv, *numbers)
    launch(general.key_gradient_kernel, grid, qkv, of_keys, *args, TAKEN=class_bound, PLAIN=plain)
    return dqkv


def _save_short(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, seg, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, seg)


@backward_of(short_attention, _save_short)
def _short_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return short_attention_backward(grad, *ctx.saved_tensors, *ctx.numbers), *([None] * 4)


def _save_general(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, seg, pieces, runs, *ctx.numbers = inputs
    ctx.save_for_backward(qkv, *output, seg, pieces, runs)
    ctx.mark_non_differentiable(output[1])


@backward_of(general_attention, _save_general)
def _general_gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return general_attention_backward(grad, *ctx.saved_tensors, *ctx.numbers), *([None] * 9)
