"""`FusedLinear` beside torch's `nn.Linear`, without gradient, in bf16 on a CPU.

    make bench     or     pytest tests/bench/test_bench_fused_linear.py --benchmark-enable

The products of a block for 128 images: of 64 tokens at width 192, as in `ijepa/cifar10`, and of 16 tokens at
128, as in `ijepa/demo`. Ratios only mean something within one run; docs/results.md holds one.
"""

import pytest
import torch
from torch import nn

from jepa_core.nn.fused_linear import fuse_linears

pytestmark = pytest.mark.slow

SIZES = [
    (8192, 192, 576),
    (8192, 192, 768),
    (8192, 768, 192),
    (2048, 128, 384),
    (2048, 128, 512),
    (2048, 512, 128),
]


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}×{0[1]}→{0[2]}".format)
@pytest.mark.parametrize("way", ["ours", "torch"])
@torch.no_grad()
def test_product(benchmark, size, way):
    rows, width, out = size
    torch.manual_seed(0)
    layer = nn.Linear(width, out)
    if way == "ours":
        fuse_linears(layer)
    x = torch.randn(rows, width).bfloat16()

    def call():
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)

    benchmark.group = f"linear {rows}×{width}→{out}"
    benchmark(call)
