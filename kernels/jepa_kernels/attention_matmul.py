"""Attention as explicit matrix products and a softmax: what CPU training runs on.

What is unusual, each found by measuring on CPUs with bf16 matrix units (ratios in kernels/README.md):
- One hand-written autograd function goes from packed qkv to its gradient: one permuting copy in, one out,
  nothing of the split of qkv left to autograd. It saves the permuted qkv, the probabilities and the output.
- In bf16 and fp16, scores are multiplied and normalised in fp32 (rounding scores is most of the error of
  attention in bf16), while the other five products stay in the low precision.
- A softmax over rows shorter than a vector register runs element by element, so short rows of scores are
  widened to 16 keys with a masked tail. Softmax's backward has the same defect at low precision; there it
  is written P * (dP - delta), delta = rowsum(dO * O), as in FlashAttention (arXiv 2205.14135, algorithm 4).
- Ragged sequences are gathered into a few padded batches of similar length (`padding`).
It is differentiable once. Under torch.compile the same steps are written plainly, for the compiler to fuse.

Axes: T packed rows, B sequences, L rows of a sequence, H heads, D head width, N = B * H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jepa_kernels.layout import Layout
from jepa_kernels.padding import CPU_GROWTH, MASKED, attend_in_groups, padding

SOFTMAX_WIDTH = 16  # fp32 lanes of the widest vector register
SHORT = 48  # rows: below, the low-precision softmax backward is written out; measured


def matmul_attention(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """qkv [T, 3, H, D] -> [T, H, D]; see `jepa_kernels.attention.block_attention`, which checks the input."""
    if layout.uniform is not None:
        return _attend_square(qkv, layout.uniform, None, scale)
    if layout.plain:
        return _attend_ragged(qkv, layout, scale)
    pad = padding(layout, CPU_GROWTH)
    return attend_in_groups(qkv, pad, lambda q, k, v, bias: softmax_attention(q, k, v, bias, scale))


def _attend_square(qkv: Tensor, length: int, bias: Tensor | None, scale: float) -> Tensor:
    """Sequences of `length` rows each that read themselves: [B * L, 3, H, D] -> [B * L, H, D]."""
    if qkv.numel() == 0:
        return qkv[:, 0]
    if torch.compiler.is_compiling():
        q, k, v = qkv.view(-1, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)
        return softmax_attention(q, k, v, bias, scale).transpose(1, 2).flatten(0, 1)
    return _SquareAttention.apply(qkv, length, bias, scale)


def _attend_ragged(qkv: Tensor, layout: Layout, scale: float) -> Tensor:
    """Ragged sequences that read themselves: gathered into padded batches, attended, gathered back."""
    pad = padding(layout, CPU_GROWTH)
    if not pad.groups:
        return qkv[:, 0]
    rows = qkv.index_select(0, pad.query_rows)
    chunks = rows.split([group.count * group.queries for group in pad.groups])
    outs = [
        _attend_square(chunk, group.queries, group.bias, scale)
        for chunk, group in zip(chunks, pad.groups, strict=True)
    ]
    return torch.cat(outs).index_select(0, pad.places)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attention in ordinary differentiable steps, scores in fp32: q [B, H, L, D], k and v [B, H, K, D]."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * scale) @ k.to(wide).mT
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).to(v.dtype) @ v


class _SquareAttention(torch.autograd.Function):
    """[B * L, 3, H, D] -> [B * L, H, D], B sequences of L rows; bias as in `Group`, or None."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, length: int, bias: Tensor | None, scale: float) -> Tensor:
        heads = qkv.shape[2]
        q, k, v = heads_first = _heads_first(qkv, length)
        probs = _probabilities(q, k, _per_head(bias, heads), scale)
        out = _rows_first(torch.bmm(probs, v)[None], heads)[:, 0]
        ctx.save_for_backward(heads_first, probs, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (q, k, v), probs, out = (heads_first, _, _) = ctx.saved_tensors
        length, heads = q.shape[1], out.shape[1]
        grad_out = _heads_first(grad[:, None], length)[0]
        d_scores = _score_gradient(grad_out, v, probs, grad, out)
        zero = q.new_zeros(1, 1, 1)
        result = torch.empty_like(heads_first)
        torch.baddbmm(zero, d_scores, k, beta=0, alpha=ctx.scale, out=result[0])
        torch.baddbmm(zero, d_scores.mT, q, beta=0, alpha=ctx.scale, out=result[1])
        torch.bmm(probs.mT, grad_out, out=result[2])
        return _rows_first(result, heads), None, None, None


def _heads_first(x: Tensor, length: int) -> Tensor:
    """[B * L, C, H, D] -> contiguous [C, B * H, L, D]."""
    _, parts, heads, width = x.shape
    moved = x.reshape(-1, length, parts, heads, width).permute(2, 0, 3, 1, 4)
    return moved.reshape(parts, -1, length, width)


def _rows_first(x: Tensor, heads: int) -> Tensor:
    """[C, B * H, L, D] -> contiguous [B * L, C, H, D]."""
    parts, _, length, width = x.shape
    moved = x.view(parts, -1, heads, length, width).permute(1, 3, 0, 2, 4)
    return moved.reshape(-1, parts, heads, width)


def _per_head(bias: Tensor | None, heads: int) -> Tensor | None:
    """[B, 1, 1, L] -> [B * H, 1, L]"""
    return None if bias is None else bias.expand(-1, heads, -1, -1).flatten(0, 1)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(scale * q k^T + bias), [N, L, L] in q's dtype, computed in fp32 or better."""
    length = k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    if length < SOFTMAX_WIDTH:
        k, bias = _widen(k, bias, wide)
    base, beta = (q.new_zeros(1, 1, 1, dtype=wide), 0) if bias is None else (bias.to(wide), 1)
    scores = torch.baddbmm(base, q.to(wide), k.to(wide).mT, beta=beta, alpha=scale)
    return scores.softmax(-1)[..., :length].to(q.dtype).contiguous()


def _widen(k: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and bias with masked keys added, up to SOFTMAX_WIDTH."""
    count, length, width = k.shape
    wide = k.new_zeros(count, SOFTMAX_WIDTH, width, dtype=dtype)
    wide[:, :length] = k
    masked = k.new_full((1 if bias is None else count, 1, SOFTMAX_WIDTH), MASKED, dtype=dtype)
    masked[..., :length] = 0 if bias is None else bias
    return wide, masked


def _score_gradient(grad_heads: Tensor, v: Tensor, probs: Tensor, grad: Tensor, out: Tensor) -> Tensor:
    """dS [N, L, L] = P * (dP - delta), dP = dO V^T: by softmax's own backward, or written out (SHORT)."""
    length = v.shape[1]
    if probs.element_size() > 2 or length >= SHORT:
        d_probs = torch.bmm(grad_heads, v.mT)
        return torch.ops.aten._softmax_backward_data(d_probs, probs, -1, probs.dtype)
    delta = (grad * out).sum(-1).neg_()
    delta = _heads_first(delta[:, None, :, None], length)[0]
    return torch.baddbmm(delta, grad_heads, v.mT).mul_(probs)
