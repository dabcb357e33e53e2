"""Attention inside ragged sequences: our implementations and their peers, on the cases of `shapes`.

A peer that pads gets its input already padded: building the padding is not timed, the arithmetic on it is. A
mask that must be built for every batch is built in every call where the name says so. The mask of a padded
batch keeps SDPA's flash kernel away; each backend is pinned, because torch's own choice depends on
its version. xformers on current torch has no kernels of its own: it calls torch's FlashAttention and CUTLASS.

Axes: B sequences, L the longest, T packed rows, H heads, D head width.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_kernels.attention import block_attention
from jepa_kernels.attention_choice import find_problem
from jepa_kernels.bench.rows import PROBLEMS, Accuracy, CannotRun, Row, Settings, Work, failed_row, time_row
from jepa_kernels.bench.shapes import Case
from jepa_kernels.bench.timing import Call, copies_for, stream_aside
from jepa_kernels.bench.waste import computed_over_useful
from jepa_kernels.layout import Layout

DTYPE = torch.bfloat16
OURS = ("triton", "matmul", "sdpa", "varlen")


@dataclass(frozen=True)
class Ready:
    """A peer with its input: `call()` gives an output, `pack(output)` brings it to [T, H, D].

    leaf: the input tensor, which requires a gradient if gradients were enabled; `pack` works on its
        gradient too
    spread: brings [T, H, D] to the output's shape
    graph: whether a CUDA graph can hold the call
    """

    leaf: Tensor
    call: Callable[[], Tensor]
    pack: Callable[[Tensor], Tensor] = lambda out: out
    spread: Callable[[Tensor], Tensor] = lambda packed: packed
    graph: bool = True


Peer = Callable[[Case, Tensor], Ready]


class Truth(NamedTuple):
    """Float32 output and gradient of qkv for one input, and the relative errors of torch's SDPA in both."""

    qkv: Tensor
    grad: Tensor
    output: Tensor
    gradient: Tensor
    torch_output: float
    torch_gradient: float


def truth(case: Case, device: torch.device, dtype: torch.dtype = DTYPE) -> Truth:
    """Computed in float32 on random input; the errors are those of SDPA on the same input in `dtype`."""
    rows = sum(case.lengths)
    qkv = torch.randn(rows, 3, case.heads, case.width, device=device).to(dtype)
    grad = torch.randn(rows, case.heads, case.width, device=device).to(dtype)
    layout = case.layout(device)

    def run_both(qkv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        leaf = qkv.detach().requires_grad_()
        out = block_attention(leaf, layout, impl="sdpa")
        return out.detach(), torch.autograd.grad(out, leaf, grad)[0]

    with torch.enable_grad():
        exact, rounded = run_both(qkv.float(), grad.float()), run_both(qkv, grad)
    distances = [_distance(a, b) for a, b in zip(rounded, exact, strict=True)]
    return Truth(qkv, grad, *exact, *distances)


def rows(case: Case, settings: Settings, only: tuple[str, ...] = ()) -> Iterator[Row]:
    """Forward and backward of every implementation on one case; `only`: of those named."""
    with stream_aside(settings.device):
        expected = truth(case, settings.device)
    for name, peer in peers(settings.device).items():
        if not only or name in only:
            yield from _rows_of_peer(name, peer, case, expected, settings)


def peers(device: torch.device) -> dict[str, Peer]:
    """All implementations by name, ours first; one that cannot run raises CannotRun when it is prepared."""
    pinned_peers = {
        f"SDPA padded, {name}": _sdpa(backend)
        for name, backend in (("cuDNN", "CUDNN"), ("flash", "FLASH"), ("efficient", "EFFICIENT"))
    }
    return {
        **{f"ours: {impl}": _through_block_attention(impl) for impl in OURS},
        "explicit softmax, padded": _explicit_softmax,
        **pinned_peers,
        "SDPA padded, torch's choice": _sdpa(None),
        "NestedTensor, SDPA": _nested_tensor,
        "xformers BlockDiagonalMask": _through_block_attention("xformers"),
        "FlexAttention, mask kept": _through_block_attention("flex"),
        "FlexAttention, mask built each call": _through_block_attention("flex", rebuilt=True),
    }


def _rows_of_peer(name: str, peer: Peer, case: Case, expected: Truth, settings: Settings) -> Iterator[Row]:
    """The row of the forward pass, then that of the backward pass."""
    size, count, operations = expected.qkv.element_size(), case.numbers(), case.operations()
    for direction, numbers, factor, measure in (
        ("forward", 4, 1.0, _forward),
        ("backward", 7, 2.5, _backward),
    ):
        work = Work(numbers * count * size, factor * operations)
        wasted = computed_over_useful(name, direction, case, expected.qkv.dtype)
        row = Row("attention", case.name, direction, name, work, computed=wasted, about=case.about())
        try:
            with stream_aside(settings.device), warnings.catch_warnings(action="ignore"):
                yield measure(row, peer, case, expected, settings)
        except PROBLEMS as problem:
            yield failed_row(row, problem)


def _forward(row: Row, peer: Peer, case: Case, expected: Truth, settings: Settings) -> Row:
    with torch.no_grad():
        ready = [peer(case, qkv) for qkv in _inputs(row, expected, settings)]
        first, second = ready[0].pack(ready[0].call()), ready[0].pack(ready[0].call())
        accuracy = _accuracy_of(first, second, expected.output, expected.torch_output)
        return time_row(
            replace(row, accuracy=accuracy), [run.call for run in ready], settings, ready[0].graph
        )


def _backward(row: Row, peer: Peer, case: Case, expected: Truth, settings: Settings) -> Row:
    """The backward pass alone, on the graph of one forward pass."""
    with torch.enable_grad():
        ready = [peer(case, qkv) for qkv in _inputs(row, expected, settings)]
        calls = [_gradient_of(run, expected.grad) for run in ready]
    first, second = ready[0].pack(calls[0]()), ready[0].pack(calls[0]())
    accuracy = _accuracy_of(first, second, expected.gradient, expected.torch_gradient)
    return time_row(replace(row, accuracy=accuracy), calls, settings, ready[0].graph)


def _inputs(row: Row, expected: Truth, settings: Settings) -> list[Tensor]:
    """The input that accuracy is measured on, then random copies to rotate through."""
    extra = copies_for(row.work.moved, settings.device) - 1
    return [expected.qkv, *(torch.randn_like(expected.qkv) for _ in range(extra))]


def _gradient_of(ready: Ready, grad: Tensor) -> Call:
    out, out_grad = ready.call(), ready.spread(grad)
    return lambda: torch.autograd.grad(out, ready.leaf, out_grad, retain_graph=True)[0]


def _accuracy_of(first: Tensor, second: Tensor, exact: Tensor, torchs: float) -> Accuracy:
    error = _distance(first, exact)
    return Accuracy(error, error / torchs if torchs else 0.0, torch.equal(first, second))


def _distance(out: Tensor, reference: Tensor) -> float:
    return float((out.float() - reference).norm() / reference.norm())


def _leaf(qkv: Tensor) -> Tensor:
    return qkv.detach().requires_grad_(torch.is_grad_enabled())


def _through_block_attention(impl: str, rebuilt: bool = False) -> Peer:
    def prepare(case: Case, qkv: Tensor) -> Ready:
        layout = case.layout(qkv.device)
        leaf = _leaf(qkv)
        problem = find_problem(impl, leaf)
        if problem is not None:
            raise CannotRun(problem)
        fresh: Callable[[], Layout] = (lambda: replace(layout)) if rebuilt else (lambda: layout)
        graph = impl in ("triton", "varlen") or (case.uniform and impl in ("sdpa", "matmul"))
        return Ready(leaf, lambda: block_attention(leaf, fresh(), impl=impl), graph=graph)

    return prepare


@dataclass(frozen=True)
class _Padded:
    """A batch padded to its longest: leaf [B, L, 3, H, D], real bool [B, L]."""

    leaf: Tensor
    real: Tensor
    uniform: bool

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as [B, H, L, D]."""
        q, k, v = self.leaf.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def pack(self, out: Tensor) -> Tensor:
        """[B, L, ...] -> [T, ...]."""
        return out[self.real]

    def spread(self, packed: Tensor) -> Tensor:
        """[T, ...] -> [B, L, ...], zero where there is padding."""
        padded = packed.new_zeros(*self.real.shape, *packed.shape[1:])
        padded[self.real] = packed
        return padded


def _pad(case: Case, qkv: Tensor) -> _Padded:
    lengths = torch.tensor(case.lengths, device=qkv.device)
    real = torch.arange(max(case.lengths), device=qkv.device)[None] < lengths[:, None]
    leaf = qkv.new_zeros(*real.shape, *qkv.shape[1:])
    leaf[real] = qkv
    return _Padded(_leaf(leaf), real, case.uniform)


def _explicit_softmax(case: Case, qkv: Tensor) -> Ready:
    """Explicit softmax as in I-JEPA's released code, in the dtype of qkv."""
    batch, scale = _pad(case, qkv), case.width**-0.5
    bias = None if batch.uniform else torch.where(batch.real, 0.0, float("-inf"))[:, None, None].to(qkv.dtype)

    def call() -> Tensor:
        q, k, v = batch.parts
        scores = (q @ k.transpose(-2, -1)) * scale
        return ((scores if bias is None else scores + bias).softmax(-1) @ v).transpose(1, 2)

    return Ready(batch.leaf, call, batch.pack, batch.spread)


def _sdpa(backend: str | None) -> Peer:
    def prepare(case: Case, qkv: Tensor) -> Ready:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if backend and qkv.device.type != "cuda":
            raise CannotRun(f"needs a CUDA tensor, got {qkv.device.type}")
        if backend == "FLASH" and not case.uniform:
            raise CannotRun("takes no mask, which a padded batch of different lengths needs")
        batch = _pad(case, qkv)
        mask = None if batch.uniform else batch.real[:, None, None, :].expand(-1, 1, batch.real.shape[1], -1)

        def call() -> Tensor:
            q, k, v = batch.parts
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

        def call_pinned() -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, f"{backend}_ATTENTION")):
                return call()

        return Ready(batch.leaf, call_pinned if backend else call, batch.pack, batch.spread)

    return prepare


def _nested_tensor(case: Case, qkv: Tensor) -> Ready:
    leaf, shortest, longest = _leaf(qkv), min(case.lengths), max(case.lengths)
    offsets = torch.tensor([0, *case.lengths], device=qkv.device).cumsum(0)
    jagged = torch.nested.nested_tensor_from_jagged

    def call() -> Tensor:
        q, k, v = (
            jagged(part, offsets, min_seqlen=shortest, max_seqlen=longest).transpose(1, 2)
            for part in leaf.unbind(1)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values()

    return Ready(leaf, call, graph=False)
