"""Padded attention as one operation of torch: how ragged layouts stay inside a compiled graph off CUDA.

Padding reads lengths on the host, and its batches differ in number and size with every layout: traced, that
would break the graph or compile it anew each time. So under `torch.compile` the implementations that pad
("matmul", "sdpa") run inside an opaque operation. What is unusual: it saves qkv alone, and its
backward recomputes the probabilities in fp32: a sixth more products than eager mode, for fewer bytes saved.

Axes: T packed rows, G segments of a group, L rows of a segment, H heads, D head width; N = G * H.
"""

from typing import Any

import torch
from torch import Tensor

from jepa_kernels.attention_matmul import matmul_attention
from jepa_kernels.attention_torch import sdpa_attention
from jepa_kernels.layout import layout_of
from jepa_kernels.library import backward_of, operation
from jepa_kernels.padding import CPU_GROWTH, Group, padding

PADS = {"matmul": matmul_attention, "sdpa": sdpa_attention}


@operation(
    "padded_attention(Tensor qkv, Tensor seg, str impl, float scale) -> Tensor",
    lambda qkv, *_: torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format),
)
def padded_attention(qkv: Tensor, seg: Tensor, impl: str, scale: float) -> Tensor:
    """qkv [T, 3, H, D] and any segments int32 [S, 6] -> [T, H, D], by an implementation of PADS."""
    return PADS[impl](qkv, layout_of(seg), scale).contiguous()


@operation(
    "padded_attention_backward(Tensor grad, Tensor qkv, Tensor seg, float scale) -> Tensor",
    lambda grad, qkv, *_: torch.empty_like(qkv),
)
def padded_attention_backward(grad: Tensor, qkv: Tensor, seg: Tensor, scale: float) -> Tensor:
    """The gradient of qkv [T, 3, H, D], from that of the output [T, H, D]."""
    pad = padding(layout_of(seg), CPU_GROWTH)
    wide = torch.promote_types(qkv.dtype, torch.float32)
    dqkv = torch.zeros_like(qkv, dtype=wide)
    real = pad.places[pad.query_rows] == torch.arange(len(pad.query_rows), device=qkv.device)
    q_at = k_at = 0
    for group in pad.groups:
        q_rows = pad.query_rows[q_at : q_at + group.count * group.queries]
        k_rows = pad.key_rows[k_at : k_at + group.count * group.keys]
        is_real = real[q_at : q_at + len(q_rows), None, None]
        q, do = (_heads_first(x, group.queries) for x in (qkv[q_rows, 0], grad[q_rows] * is_real))
        k, v = (_heads_first(qkv[k_rows, part], group.keys) for part in (1, 2))
        gradients = _gradients(q, k, v, do, group, scale)
        for part, rows in enumerate((q_rows, k_rows, k_rows)):
            dqkv[:, part].index_add_(0, rows, gradients[part].transpose(1, 2).flatten(0, 1).to(wide))
        q_at, k_at = q_at + len(q_rows), k_at + len(k_rows)
    return dqkv.to(qkv.dtype)


def _heads_first(x: Tensor, length: int) -> Tensor:
    """[G * L, H, D] -> [G, H, L, D]"""
    return x.unflatten(0, (-1, length)).transpose(1, 2)


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, group: Group, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each [G, H, L, D]; the probabilities are in fp32 or better."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * scale) @ k.to(wide).mT
    probs = (scores if group.bias is None else scores + group.bias).softmax(-1)
    d_probs = (do @ v.mT).to(wide)
    d_scores = (probs * (d_probs - (probs * d_probs).sum(-1, keepdim=True)) * scale).to(q.dtype)
    return d_scores @ k, d_scores.mT @ q, probs.to(q.dtype).mT @ do


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, seg, _, ctx.scale = inputs
    ctx.save_for_backward(qkv, seg)


@backward_of(padded_attention, _save)
def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return padded_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None, None, None
