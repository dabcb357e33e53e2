"""Attention, forward and backward, beside its peer in the same run: `pytest tests/bench --benchmark-enable`.

The peer is attention as I-JEPA's official code writes it (explicit scores and softmax in the dtype of qkv);
on ragged sequences, the same over one batch padded to the longest. Read ratios inside a group, not times.
"""

import pytest
import torch
from torch import Tensor

from jepa_kernels import Layout, block_attention

DENSE = {"predictor 128x12": (128, 12), "predictor 128x16": (128, 16), "encoder 16x64": (16, 64)}


def official_attention(qkv: Tensor, mask: Tensor | None = None) -> Tensor:
    """I-JEPA's attention on [B, L, 3, H, D]; mask: added to the scores, [B, 1, 1, L]."""
    parts = qkv.permute(2, 0, 3, 1, 4)
    q, k, v = parts[0], parts[1], parts[2]
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    probs = (scores if mask is None else scores + mask).softmax(-1)
    return (probs @ v).transpose(1, 2)


def official_padded(qkv: Tensor, lengths: Tensor) -> Tensor:
    """The same on packed [T, 3, H, D]: padded to the longest sequence, masked, and packed again."""
    real = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    padded = qkv.new_zeros(*real.shape, *qkv.shape[1:])
    padded[real] = qkv
    mask = torch.where(real, 0.0, float("-inf"))[:, None, None].to(qkv.dtype)
    return official_attention(padded, mask)[real]


def train_step(benchmark, run, qkv: Tensor) -> None:
    grad = torch.randn_like(qkv[:, 0])

    def step():
        qkv.grad = None
        run(qkv).backward(grad)

    benchmark.pedantic(step, rounds=8, iterations=2, warmup_rounds=2)
    assert qkv.grad is not None
    assert bool(qkv.grad.isfinite().all())


@pytest.mark.parametrize("impl", ["official", "matmul", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("shape", DENSE)
def test_dense_attention(benchmark, shape, dtype, impl):
    batch, length = DENSE[shape]
    benchmark.group = f"attention {shape} {dtype}"
    benchmark.extra_info["peer"] = "official"
    layout = Layout.dense(batch, length)
    qkv = torch.randn(layout.total, 3, 3, 32).to(dtype).requires_grad_()
    if impl == "official":
        train_step(
            benchmark, lambda x: official_attention(x.unflatten(0, (batch, length))).flatten(0, 1), qkv
        )
    else:
        train_step(benchmark, lambda x: block_attention(x, layout, impl=impl), qkv)


@pytest.mark.parametrize("impl", ["official padded", "matmul", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_ragged_attention(benchmark, dtype, impl):
    """Contexts as I-JEPA draws them on an 8 x 8 grid: 12 to 33 of 64 patches."""
    benchmark.group = f"attention ragged 64x(12..33) {dtype}"
    benchmark.extra_info["peer"] = "official padded"
    lengths = torch.randint(12, 34, (64,), generator=torch.Generator().manual_seed(0))
    layout = Layout.packed(torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]))
    qkv = torch.randn(layout.total, 3, 3, 64).to(dtype).requires_grad_()
    if impl == "official padded":
        train_step(benchmark, lambda x: official_padded(x, lengths), qkv)
    else:
        train_step(benchmark, lambda x: block_attention(x, layout, impl=impl), qkv)
