"""Registers operations with torch: schema, kernel and output shapes in one decorator.

    @operation("double(Tensor x) -> Tensor", fake=torch.empty_like)
    def double(x): return 2 * x
    double(torch.ones(3))                       # is torch.ops.jepa_kernels.double.default

Under `torch.compile` such a call is one opaque node, whatever its kernel reads. What is unusual: `define` and
`impl` are used instead of `torch.library.custom_op`, whose checks cost two or three times as much a call,
and instead of `triton_op`, whose kernels cannot be traced when Triton interprets them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

NAMESPACE = "jepa_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def operation(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], OpOverload]:
    """Registers the decorated function as `jepa_kernels::` + schema, on CPU and CUDA; returns the operation.

    schema: as in torch.library, "name(Tensor x, Tensor(a!)[] written, float scale) -> Tensor"
    fake: takes the same arguments, reads no data, returns empty tensors of the result's shape and type
    """
    name = schema.partition("(")[0]

    def register(kernel: Callable[..., Any]) -> OpOverload:
        _LIBRARY.define(schema)
        for device in ("CPU", "CUDA"):
            _LIBRARY.impl(name, kernel, device)
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        return getattr(getattr(torch.ops, NAMESPACE), name).default

    return register


def backward_of(forward: OpOverload, saves: Callable[..., None]) -> Callable[[Callable[..., Any]], Any]:
    """Makes the decorated function the derivative of `forward`, in eager and compiled code.

    saves: (ctx, inputs, output), keeps what the backward needs; the decorated function: (ctx, *gradients of
    the outputs), one gradient or None for each input
    """

    def register(backward: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.register_autograd(forward.name(), backward, setup_context=saves, lib=_LIBRARY)
        return backward

    return register
