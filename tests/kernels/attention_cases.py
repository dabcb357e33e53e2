"""Inputs, the float64 truth and the error budget that the attention tests share.

The budget is FlashAttention's rule: against float64, an implementation may err at most twice (output) or
three times (gradient) as much as torch's own attention does in the same dtype, segment by segment.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_kernels import Layout, block_attention

IMPLS = ("reference", "matmul", "sdpa")  # "varlen" needs CUDA
HEAD_DIMS = (8, 16, 24, 32, 64, 80, 88)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def pack(lengths: list[int]) -> Layout:
    return Layout.packed(torch.tensor([0, *lengths]).cumsum(0))


def draw_inputs(layout: Layout, dtype: torch.dtype, heads: int = 2, width: int = 24) -> tuple[Tensor, Tensor]:
    """Random qkv [T, 3, H, D] and a gradient of the output [T, H, D]."""
    qkv = torch.randn(layout.total, 3, heads, width).to(dtype)
    return qkv, torch.randn(layout.total, heads, width).to(dtype)


def both_ways(
    qkv: Tensor, grad: Tensor, layout: Layout, impl: str, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """(output, gradient of qkv) in float64 on the host, computed on `device` in the dtype of qkv."""
    leaf = qkv.to(device, copy=True).requires_grad_()
    out = block_attention(leaf, layout.to(device), impl=impl)
    return _run(out, leaf, grad.to(device))


def truth(qkv: Tensor, grad: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    return both_ways(qkv.double(), grad.double(), layout, "reference")


def torch_peer(qkv: Tensor, grad: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """torch's SDPA, segment by segment, in the dtype of qkv: what the error budget is measured by."""
    leaf = qkv.clone().requires_grad_()
    outs = [leaf[:0, 0]]
    for q_start, q_len, a_start, a_len, b_start, b_len in layout.seg.tolist():
        keys = torch.cat([leaf[a_start : a_start + a_len], leaf[b_start : b_start + b_len]])
        q, k, v = (
            x.transpose(0, 1)[None] for x in (leaf[q_start : q_start + q_len, 0], *keys[:, 1:].unbind(1))
        )
        if q_len:
            outs.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    return _run(torch.cat(outs), leaf, grad)


def _run(out: Tensor, leaf: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(out, leaf, grad)
    return out.detach().double().cpu(), gradient.double().cpu()


def assert_within_budget(
    qkv: Tensor,
    grad: Tensor,
    layout: Layout,
    impl: str,
    floor: float = 1e-5,
    slack: float = 1,
    device: str = "cpu",
) -> None:
    """Fails where `impl` errs more than `slack` budgets; `floor` is relative to the largest true value."""
    exact = truth(qkv, grad, layout)
    peer = torch_peer(qkv, grad, layout)
    got = both_ways(qkv, grad, layout, impl, device)
    for name, factor, exact_value, peer_result, result in zip(
        ("output", "gradient"), (2, 3), exact, peer, got, strict=True
    ):
        if exact_value.numel() == 0:
            continue
        error, torch_error = (result - exact_value).abs().max(), (peer_result - exact_value).abs().max()
        budget = slack * factor * torch_error + floor * exact_value.abs().max()
        assert error <= budget, (
            f"{impl} {name}: error {error:.2e}, torch's {torch_error:.2e}, budget {budget:.2e}"
        )


def assert_close_in(dtype: torch.dtype, got: Tensor, expected: Tensor) -> None:
    """Fails where `got` errs more than four roundings of its own value or of the largest of the tensor.

    A small value may be the sum of large terms, added up in another order.
    """
    tolerance = 4 * torch.finfo(dtype).eps
    largest = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(got.detach().double(), expected, rtol=tolerance, atol=tolerance * largest)
