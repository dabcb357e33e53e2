"""`block_attention`: attention inside packed ragged sequences, with its reference and the choice of a path.

    from jepa_kernels import Layout, block_attention
    out = block_attention(qkv, Layout.packed(offsets))      # qkv [T, 3, H, D] -> [T, H, D]

What is unusual: query, key and value arrive as the one tensor that a qkv projection writes, so that no path
pays for splitting it; which rows read which is a `Layout`, not a mask. The reference below defines the
operation. An explicit `impl` never falls back to another; "auto" picks, and `explain` says what and why.

Axes: T packed rows, H heads, D head width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from jepa_kernels.attention_choice import choose_impl, find_problem
from jepa_kernels.attention_matmul import matmul_attention
from jepa_kernels.attention_opaque import PADS, padded_attention
from jepa_kernels.attention_peers import flex_attention, xformers_attention
from jepa_kernels.attention_torch import sdpa_attention, varlen_attention
from jepa_kernels.layout import Layout
from jepa_kernels.names import Choice, unknown_impl


def reference_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """The operation's definition: a loop over segments in the dtype of qkv (float64 included).

    Segment s: out = softmax(scale * q K^T) V over its keys K, V; zeros where it has no keys.
    """
    outs = []
    for q_start, q_len, a_start, a_len, b_start, b_len in layout.seg.tolist():
        q = qkv[q_start : q_start + q_len, 0].transpose(0, 1)
        keys = torch.cat([qkv[a_start : a_start + a_len], qkv[b_start : b_start + b_len]])
        k, v = keys[:, 1].transpose(0, 1), keys[:, 2].transpose(0, 1)
        outs.append((((q @ k.mT) * scale).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outs) if outs else qkv[:, 0]


def _triton_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    from jepa_kernels.triton_attention import triton_attention  # loads triton

    return triton_attention(qkv, layout, scale)


_RUN: dict[str, Callable[[Tensor, Layout, float], Tensor]] = {
    "reference": reference_attention,
    "matmul": matmul_attention,
    "sdpa": sdpa_attention,
    "varlen": varlen_attention,
    "triton": _triton_attention,
    "flex": flex_attention,
    "xformers": xformers_attention,
}
ATTENTION_IMPLS = tuple(_RUN)


def block_attention(qkv: Tensor, layout: Layout, *, scale: float | None = None, impl: str = "auto") -> Tensor:
    """Softmax attention of each segment of `layout` over the key rows that it reads.

    qkv: contiguous [T, 3, H, D], floating point; runs in its dtype, whatever autocast says
    layout: which rows read which, on the device of qkv, with layout.total == T
    scale: factor on the scores; default D ** -0.5
    impl: "auto", or one of ATTENTION_IMPLS: an explicit choice runs, or raises, and never falls back
    Returns [T, H, D] in qkv's dtype; rows with no keys are zero and give no gradient. "reference" may be
    differentiated any number of times, all others once.
    Raises ValueError for an unknown impl, one that cannot run on this input, or input that does not fit.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1, per segment.
    """
    _check(qkv, layout)
    impl = _pick(impl, qkv, layout)
    run = _runner(impl, layout)
    scale = qkv.shape[3] ** -0.5 if scale is None else scale
    if torch.is_autocast_enabled(qkv.device.type):
        with torch.autocast(qkv.device.type, enabled=False):
            out = run(qkv, layout, scale)
    else:
        out = run(qkv, layout, scale)
    if layout.has_unread and impl != "triton":  # which writes these zeros itself
        return out.masked_fill(layout.unread_rows[:, None, None], 0)
    return out


def explain(qkv: Tensor, layout: Layout) -> list[Choice]:
    """For each implementation: can it take this input, why (not), and is it what auto takes."""
    _check(qkv, layout)
    chosen, why = choose_impl(qkv, layout)
    lines = []
    for name in ATTENTION_IMPLS:
        problem = find_problem(name, qkv)
        reason = why if name == chosen else problem or "can take this input"
        lines.append(Choice(name, problem is None, reason, name == chosen))
    return lines


def _check(qkv: Tensor, layout: Layout) -> None:
    if qkv.ndim != 4 or qkv.shape[1] != 3 or not qkv.is_floating_point():
        raise ValueError(f"qkv must be floating point [T, 3, H, D]; got {list(qkv.shape)} of {qkv.dtype}")
    if not qkv.is_contiguous():
        raise ValueError(f"qkv must be contiguous [T, 3, H, D]; got strides {qkv.stride()}")
    if qkv.shape[0] != layout.total:
        raise ValueError(f"qkv has T = {qkv.shape[0]} rows, but the layout covers {layout.total}")
    if qkv.device != layout.device:
        raise ValueError(f"qkv is on {qkv.device}, the layout on {layout.device}; move it: layout.to(...)")


def _runner(impl: str, layout: Layout) -> Callable[[Tensor, Layout, float], Tensor]:
    if torch.compiler.is_compiling() and layout.uniform is None and impl in PADS:
        return lambda qkv, layout, scale: padded_attention(qkv, layout.seg, impl, scale)
    return _RUN[impl]


def _pick(impl: str, qkv: Tensor, layout: Layout) -> str:
    if impl == "auto":
        return choose_impl(qkv, layout)[0]
    if impl not in _RUN:
        raise unknown_impl(impl, "block_attention", ATTENTION_IMPLS)
    problem = find_problem(impl, qkv)
    if problem is not None:
        raise ValueError(f"impl {impl!r} of block_attention cannot run here: it {problem}")
    return impl
