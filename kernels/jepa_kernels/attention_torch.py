"""Attention through torch's own fused kernels: `scaled_dot_product_attention`, and `varlen_attn` on CUDA.

Sequences of one length go to SDPA as they are. Ragged ones are padded: on CPU in a few batches of similar
length, on CUDA in one (a mask keeps SDPA off its flash kernel there, which is why `varlen` exists).

Axes: T packed rows, H heads, D head width; SDPA wants [B, H, L, D].
"""

from importlib.util import find_spec
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_kernels.layout import Layout
from jepa_kernels.padding import CPU_GROWTH, attend_in_groups, padding

HAS_VARLEN = find_spec("torch.nn.attention.varlen") is not None  # from torch 2.10 on


def sdpa_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] -> [T, H, D]; see `jepa_kernels.attention.block_attention`, which checks the input."""
    if layout.uniform is not None:
        return _attend_dense(qkv, layout.uniform, scale) if qkv.numel() else qkv[:, 0]
    pad = padding(layout, CPU_GROWTH if qkv.device.type == "cpu" else inf)
    return attend_in_groups(qkv, pad, lambda q, k, v, bias: _attend_masked(q, k, v, bias, scale))


def _attend_dense(qkv: Tensor, length: int, scale: float) -> Tensor:
    q, k, v = qkv.view(-1, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    mask = None if bias is None else (bias == 0).expand(-1, 1, q.shape[2], -1)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def varlen_problem(qkv: Tensor) -> str | None:
    """Why `varlen` cannot take this tensor, or None."""
    if qkv.device.type != "cuda":
        return f"needs CUDA tensors, got {qkv.device.type}"
    if qkv.dtype not in (torch.float16, torch.bfloat16):
        return f"needs float16 or bfloat16, got {qkv.dtype}"
    if qkv.shape[3] % 8 or qkv.shape[3] > 256:
        return f"needs a head width that is a multiple of 8 up to 256, got {qkv.shape[3]}"
    return None if HAS_VARLEN else f"torch {torch.__version__} has no torch.nn.attention.varlen"


def varlen_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] on CUDA -> [T, H, D], without padding; keys of two ranges are gathered end to end."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = gather_keys(qkv, layout)
    bounds = (layout.query_offsets, layout.key_offsets, layout.max_queries, layout.max_len)
    return varlen_attn(q, k, v, *bounds, scale=scale)  # type: ignore[return-value]


def gather_keys(qkv: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and keys and values of all segments end to end, `layout.key_offsets` apart.

    Views where the layout is plain, by one `unbind`: its backward stacks the three gradients in one pass,
    where three times `qkv[:, i]` would fill a whole tensor with zeros for each, and add them up.
    """
    q, k, v = qkv.unbind(1)
    if layout.plain:
        return q, k, v
    rows = layout.cache("key_rows", lambda: _find_key_rows(layout))
    return q, k.index_select(0, rows), v.index_select(0, rows)


def _find_key_rows(layout: Layout) -> Tensor:
    seg = layout.seg.long()
    n_keys = seg[:, 3] + seg[:, 5]
    of = torch.arange(len(seg), device=seg.device).repeat_interleave(n_keys)
    at = torch.arange(len(of), device=seg.device) - layout.key_offsets.long()[of]
    _, _, a_start, a_len, b_start, _ = seg[of].unbind(1)
    return torch.where(at < a_len, a_start + at, b_start + at - a_len)
