"""`nn.Linear` in bf16 on a CPU, without gradient, with the bias added by the product itself.

torch computes x Wᵀ + b in bf16 on a CPU by filling the output with b and adding the product to it: the output
is written twice and read once more, which takes up to a third of the time at a width of a few hundred.
oneDNN, which multiplies anyway, can add a bias before it writes; torch knows that operation, and uses it in
compiled graphs alone. With a gradient, for all other types, and everywhere else `FusedLinear` is torch's own:
the backward pass takes most of the time there, and nothing could be told of the gain.

Half of a step of a JEPA is the target encoder, which has no gradient, and so is all that evaluations do.
Measured: `tests/bench/test_bench_fused_linear.py`, docs/results.md.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from jepa_core.runtime.devices import fast_bf16


class FusedLinear(nn.Linear):
    """torch's `nn.Linear`, whose bias costs nothing under autocast to bf16 on a CPU without gradient.

    Same parameters; same results, up to the rounding of bf16.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[…, I] to […, O]."""
        if not self._fits(input):
            return super().forward(input)
        x, weight, bias = (t.to(torch.bfloat16) for t in (input, self.weight, self.bias))
        return _product(x, weight, bias)

    def _fits(self, x: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and x.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and self.bias is not None
            and x.is_floating_point()
            and x.dtype != torch.float64
            and x.dim() > 1
            and x.numel() > 0
            and not torch.compiler.is_compiling()
            and _has_product()
        )


def fuse_linears(module: nn.Module) -> None:
    """Makes every plain `nn.Linear` inside `module` a `FusedLinear` with the same parameters and hooks."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = FusedLinear


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@functools.cache
def _has_product() -> bool:
    """Whether this torch has the operation, and this CPU bf16."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and fast_bf16(torch.device("cpu"))
