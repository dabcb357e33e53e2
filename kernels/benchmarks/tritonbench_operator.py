"""An example: the attention of JEPAs as an operator of tritonbench, on the cases of `jepa_kernels.bench`.

Copy it to `tritonbench/operators/jepa_attention/operator.py`, with an `__init__.py` that imports Operator,
have jepa_kernels importable, and

    python run.py --op jepa_attention --mode fwd_bwd --metrics latency,gbps,speedup

Each input is a case: packed qkv [T, 3, H, D] and the layout of its sequences. tritonbench is not on PyPI and
is no dependency: `tests/kernels/test_bench_examples.py` runs this on a stand-in, and imports it where the
package is installed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tritonbench.utils.triton_op import (
    BenchmarkOperator,
    BenchmarkOperatorMetrics,
    register_benchmark,
    register_metric,
)

from jepa_kernels import Layout, block_attention
from jepa_kernels.bench import Case, load, names


class Operator(BenchmarkOperator):
    """Self-attention inside the sequences of each case, forward or backward."""

    DEFAULT_METRICS = ("latency", "speedup", "gbps")
    DEFAULT_PRECISION = "bf16"

    def get_input_iter(self) -> Iterator[tuple[torch.Tensor, Layout, Case]]:
        """qkv, layout and the case itself."""
        for case in map(load, names()):
            rows = sum(case.lengths)
            qkv = torch.randn(rows, 3, case.heads, case.width, device=self.device, dtype=self.dtype)
            yield qkv.requires_grad_(self.requires_grad), case.layout(self.device), case

    def get_x_val(self, example_inputs: tuple[Any, ...]) -> str:
        """The case's name."""
        name: str = example_inputs[2].name
        return name

    @register_benchmark(baseline=True)
    def varlen(self, qkv: torch.Tensor, layout: Layout, case: Case) -> Callable[[], torch.Tensor]:
        """torch's FlashAttention 2 on the packed batch."""
        return lambda: block_attention(qkv, layout, impl="varlen")

    @register_benchmark()
    def triton(self, qkv: torch.Tensor, layout: Layout, case: Case) -> Callable[[], torch.Tensor]:
        """The Triton kernels."""
        return lambda: block_attention(qkv, layout, impl="triton")

    @register_benchmark()
    def sdpa(self, qkv: torch.Tensor, layout: Layout, case: Case) -> Callable[[], torch.Tensor]:
        """torch's SDPA on the batch padded to its longest, masked; the padding is counted."""
        return lambda: block_attention(qkv, layout, impl="sdpa")

    @register_metric()
    def gbps(self, fn: Any, example_inputs: tuple[Any, ...], metrics: BenchmarkOperatorMetrics) -> float:
        """GB/s of the least that a forward pass moves: qkv read, the output written."""
        moved: int = 4 * example_inputs[2].numbers() * example_inputs[0].element_size()
        return moved / metrics.latency * 1e-6
