"""Which implementation of attention can take an input, and which one `impl="auto"` takes.

Every sentence here is shown to users, by `explain` and in errors. What is unusual: the answers depend on
plain facts alone (device, dtype, head width, longest sequence, whether a gradient is wanted), never on what
ran before, so that one input is always computed one way.

Axes: T packed rows, H heads, D head width.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from jepa_kernels.attention_peers import flex_problem, xformers_problem
from jepa_kernels.attention_torch import varlen_problem
from jepa_kernels.layout import Layout
from jepa_kernels.triton_attention_table import WIDEST, auto_bound, bound_is_measured

LONG = 128  # rows: from here on SDPA trains as fast in fp32 on CPU, and stores no probabilities; measured
HAS_TRITON = find_spec("triton") is not None


def find_problem(impl: str, qkv: Tensor) -> str | None:
    """Why `impl` cannot take this tensor, as the end of a sentence that begins with "it"; or None."""
    return _PROBLEMS[impl](qkv) if impl in _PROBLEMS else None


def choose_impl(qkv: Tensor, layout: Layout) -> tuple[str, str]:
    """(implementation, reason) that `impl="auto"` takes."""
    return _choose_on_cpu(qkv, layout) if qkv.device.type == "cpu" else _choose_on_cuda(qkv, layout)


def triton_problem(qkv: Tensor) -> str | None:
    """Why `triton` cannot take this tensor, or None."""
    if not HAS_TRITON:
        return "needs the package triton, which is not installed"
    if qkv.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"needs float32, bfloat16 or float16, got {qkv.dtype}"
    if qkv.shape[3] > WIDEST:
        return f"needs a head width up to {WIDEST}, got {qkv.shape[3]}"
    if qkv.device.type == "cuda":
        return _capability_problem(qkv.device)
    if qkv.device.type == "cpu" and _is_interpreting():
        return None
    return f"needs a CUDA tensor, got {qkv.device.type}; on a CPU it runs under TRITON_INTERPRET=1, for tests"


_PROBLEMS: dict[str, Callable[[Tensor], str | None]] = {
    "varlen": varlen_problem,
    "triton": triton_problem,
    "flex": flex_problem,
    "xformers": xformers_problem,
}


def _is_interpreting() -> bool:
    """Whether the kernels were, or will be, loaded for Triton's interpreter."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from jepa_kernels.triton_attention import INTERPRETED

    return INTERPRETED


def _capability_problem(device: torch.device) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"needs compute capability 8.0 or more, got {major}.{minor}"


def _choose_on_cuda(qkv: Tensor, layout: Layout) -> tuple[str, str]:
    problem = triton_problem(qkv)
    measured = problem is None and bound_is_measured(qkv.shape[3], qkv.dtype)
    if problem is None and layout.max_len <= auto_bound(qkv.shape[3], qkv.dtype):
        why = "measured to be the fastest" if measured else "by a roofline, not measured"
        return "triton", f"short enough to be bound by memory ({why})"
    basis = "measured" if measured else "not measured"
    passed = f"triton {problem}" if problem else f"too long for triton to be better ({basis})"
    if layout.uniform is not None:
        return "sdpa", f"sequences of one length need no padding; {passed}"
    varlen = varlen_problem(qkv)
    if varlen is None:
        return "varlen", f"ragged sequences, and no padding; {passed}"
    return "sdpa", f"ragged sequences, padded: varlen {varlen}; {passed}"


def _choose_on_cpu(qkv: Tensor, layout: Layout) -> tuple[str, str]:
    if not (qkv.requires_grad and torch.is_grad_enabled()):
        return "sdpa", "CPU without a gradient: its forward is the fastest"
    if qkv.dtype in (torch.bfloat16, torch.float16):
        return "matmul", f"CPU training in {qkv.dtype}: the backward of SDPA is slow at low precision"
    if layout.max_len < LONG:
        return "matmul", f"CPU training on sequences under {LONG} rows"
    return "sdpa", f"CPU training in {qkv.dtype} on sequences of {LONG} rows and more"
