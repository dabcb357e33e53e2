"""Attention through other people's kernels for ragged batches: FlexAttention and xformers.

They are here to be asked for by name, in a benchmark or a recipe; `auto` takes neither. What is unusual: on
current torch xformers brings no kernels of its own and dispatches its BlockDiagonalMask to torch's FA2 and
CUTLASS ones; its successor `mslk` is tried first. Neither package is imported before it is asked for.

Axes: T packed rows, S segments, H heads, D head width.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from jepa_kernels.attention_torch import gather_keys
from jepa_kernels.layout import Layout

FMHA = ("mslk.attention.fmha", "xformers.ops.fmha")
FLEX_VARIANTS = 64
"""Compiled forms of FlexAttention in a process: one for each head width, type of number and gradient mode.
Dynamo stops at 8 of its own accord, and computes the whole score matrix from then on."""
HAS_FMHA = any(find_spec(name.partition(".")[0]) is not None for name in FMHA)


def flex_problem(qkv: Tensor) -> str | None:
    """Why `flex` cannot take this tensor, or None."""
    if qkv.device.type == "cpu":
        trains = qkv.requires_grad and torch.is_grad_enabled()
        return "has no backward on a CPU" if trains else None
    return None if qkv.device.type == "cuda" else f"needs a CUDA or CPU tensor, got {qkv.device.type}"


def flex_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] -> [T, H, D], the layout as a block mask, made once a layout; fused on CUDA only."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    if qkv.shape[0] == 0:
        return qkv[:, 0]
    mask = layout.cache("flex", lambda: _block_mask(layout))
    q, k, v = (part.transpose(0, 1)[None] for part in qkv.unbind(1))
    run: Any = flex if qkv.device.type == "cpu" or torch.compiler.is_compiling() else _compiled_flex
    return run(q, k, v, block_mask=mask, scale=scale)[0].transpose(0, 1)


def _compiled_flex(*tensors: Tensor, **more: Any) -> Tensor:
    """FlexAttention, fused. Raises dynamo's FailOnRecompileLimitHit past FLEX_VARIANTS, where dynamo would
    else go on unfused, in silence."""
    limits = {"recompile_limit": FLEX_VARIANTS, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):
        out: Tensor = _flex()(*tensors, **more)
    return out


@cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention as flex

    return torch.compile(flex, dynamic=True)


def _block_mask(layout: Layout) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    _, q_len, a_start, a_len, b_start, b_len = layout.seg.unbind(1)
    ends = [a_start, a_start + a_len, b_start, b_start + b_len]
    a_from, a_to, b_from, b_to = (x.repeat_interleave(q_len, output_size=layout.total) for x in ends)

    def reads(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((a_from[q] <= k) & (k < a_to[q])) | ((b_from[q] <= k) & (k < b_to[q]))

    rows = layout.total
    return create_block_mask(reads, None, None, rows, rows, device=layout.device)


def xformers_problem(qkv: Tensor) -> str | None:
    """Why `xformers` cannot take this tensor, or None."""
    if not HAS_FMHA:
        return "needs the package xformers (or mslk), which is not installed"
    if qkv.device.type != "cuda":
        return f"needs a CUDA tensor, got {qkv.device.type}"
    if qkv.dtype == torch.float64:
        return f"needs float32, float16 or bfloat16, got {qkv.dtype}"
    return (
        None if qkv.shape[3] % 8 == 0 else f"needs a head width that is a multiple of 8, got {qkv.shape[3]}"
    )


@cache
def _fmha() -> Any:
    """The first module of FMHA that is installed. Raises ImportError where neither loads."""
    first, second = FMHA
    try:
        return import_module(first)
    except ModuleNotFoundError:
        return import_module(second)


def xformers_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] on CUDA -> [T, H, D] under a BlockDiagonalMask, made once a layout (on the host)."""
    if qkv.shape[0] == 0:
        return qkv[:, 0]
    mask = layout.cache("xformers", lambda: _block_diagonal(layout))
    q, k, v = gather_keys(qkv, layout)
    return _fmha().memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask, scale=scale)[0]


def _block_diagonal(layout: Layout) -> Any:
    seg = layout.seg.tolist()
    queries, keys = [row[1] for row in seg], [row[3] + row[5] for row in seg]
    return _fmha().attn_bias.BlockDiagonalMask.from_seqlens(queries, keys)
