"""Attention inside ragged sequences: ours and everyone else's, on the cases of `shapes`.

Who pads is given its input padded already: the padding itself is not counted, the arithmetic on it is. A
mask that must be built for every batch is built in every call where the name says so. The mask of a padded
batch keeps SDPA's flash kernel away; each backend is pinned, for left alone torch's choice depends on its
version. xformers on current torch has no kernels of its own: it calls torch's FlashAttention 2 and CUTLASS.

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
from jepa_kernels.attention_choice import unusable
from jepa_kernels.bench.rows import PROBLEMS, CannotRun, Judged, Row, Settings, Work, failed, timed
from jepa_kernels.bench.shapes import Case
from jepa_kernels.bench.timing import Call, copies_for, stream_aside
from jepa_kernels.bench.waste import computed_over_useful
from jepa_kernels.layout import Layout

DTYPE = torch.bfloat16
OURS = ("triton", "matmul", "sdpa", "varlen")


@dataclass(frozen=True)
class Ready:
    """A peer with its input: `call()` gives an output, `packed(output)` brings it to [T, H, D].

    leaf: what a gradient is wanted of, where it was made ready with gradients enabled; `packed` fits its
        gradient as well
    spread: brings [T, H, D] to the output's shape
    graph: whether a CUDA graph can hold the call
    """

    leaf: Tensor
    call: Callable[[], Tensor]
    packed: Callable[[Tensor], Tensor] = lambda out: out
    spread: Callable[[Tensor], Tensor] = lambda packed: packed
    graph: bool = True


Peer = Callable[[Case, Tensor], Ready]


class Truth(NamedTuple):
    """What one input gives: the output, and the gradient of qkv from `grad`; and how far torch is from it."""

    qkv: Tensor
    grad: Tensor
    output: Tensor
    gradient: Tensor
    torch_output: float
    torch_gradient: float


def truth(case: Case, device: torch.device, dtype: torch.dtype = DTYPE) -> Truth:
    """In float32, on fresh random input; torch is its SDPA on the same numbers in `dtype`."""
    rows = sum(case.lengths)
    qkv = torch.randn(rows, 3, case.heads, case.width, device=device).to(dtype)
    grad = torch.randn(rows, case.heads, case.width, device=device).to(dtype)
    layout = case.layout(device)

    def both(qkv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        leaf = qkv.detach().requires_grad_()
        out = block_attention(leaf, layout, impl="sdpa")
        return out.detach(), torch.autograd.grad(out, leaf, grad)[0]

    with torch.enable_grad():
        exact, theirs = both(qkv.float(), grad.float()), both(qkv, grad)
    far = [_distance(a, b) for a, b in zip(theirs, exact, strict=True)]
    return Truth(qkv, grad, *exact, *far)


def rows(case: Case, settings: Settings, only: tuple[str, ...] = ()) -> Iterator[Row]:
    """Forward and backward of every implementation on one case; `only`: of those named."""
    with stream_aside(settings.device):
        true = truth(case, settings.device)
    for name, peer in peers(settings.device).items():
        if not only or name in only:
            yield from _both(name, peer, case, true, settings)


def peers(device: torch.device) -> dict[str, Peer]:
    """Everyone by name, ours first; those that cannot run say so when they are asked to."""
    pinned = {
        f"SDPA padded, {name}": _sdpa(backend)
        for name, backend in (("cuDNN", "CUDNN"), ("flash", "FLASH"), ("efficient", "EFFICIENT"))
    }
    return {
        **{f"ours: {impl}": _ours(impl) for impl in OURS},
        "explicit softmax, padded": _explicit,
        **pinned,
        "SDPA padded, torch's choice": _sdpa(None),
        "NestedTensor, SDPA": _nested,
        "xformers BlockDiagonalMask": _ours("xformers"),
        "FlexAttention, mask kept": _ours("flex"),
        "FlexAttention, mask built each call": _ours("flex", rebuilt=True),
    }


def _both(name: str, peer: Peer, case: Case, true: Truth, settings: Settings) -> Iterator[Row]:
    """The row of the forward pass, then that of the backward pass."""
    size, count, operations = true.qkv.element_size(), case.numbers(), case.operations()
    for direction, numbers, factor, measured in (
        ("forward", 4, 1.0, _forward),
        ("backward", 7, 2.5, _backward),
    ):
        work = Work(numbers * count * size, factor * operations)
        wasted = computed_over_useful(name, direction, case, true.qkv.dtype)
        row = Row("attention", case.name, direction, name, work, computed=wasted, about=case.about())
        try:
            with stream_aside(settings.device), warnings.catch_warnings(action="ignore"):
                yield measured(row, peer, case, true, settings)
        except PROBLEMS as problem:
            yield failed(row, problem)


def _forward(row: Row, peer: Peer, case: Case, true: Truth, settings: Settings) -> Row:
    with torch.no_grad():
        ready = [peer(case, qkv) for qkv in _inputs(row, true, settings)]
        first, second = ready[0].packed(ready[0].call()), ready[0].packed(ready[0].call())
        judged = _judged(first, second, true.output, true.torch_output)
        return timed(replace(row, judged=judged), [one.call for one in ready], settings, ready[0].graph)


def _backward(row: Row, peer: Peer, case: Case, true: Truth, settings: Settings) -> Row:
    """Backward alone, on a forward that is kept."""
    with torch.enable_grad():
        ready = [peer(case, qkv) for qkv in _inputs(row, true, settings)]
        calls = [_gradient_of(one, true.grad) for one in ready]
    first, second = ready[0].packed(calls[0]()), ready[0].packed(calls[0]())
    judged = _judged(first, second, true.gradient, true.torch_gradient)
    return timed(replace(row, judged=judged), calls, settings, ready[0].graph)


def _inputs(row: Row, true: Truth, settings: Settings) -> list[Tensor]:
    """The one that is judged, and as many others as are rotated."""
    others = copies_for(row.work.moved, settings.device) - 1
    return [true.qkv, *(torch.randn_like(true.qkv) for _ in range(others))]


def _gradient_of(ready: Ready, grad: Tensor) -> Call:
    out, given = ready.call(), ready.spread(grad)
    return lambda: torch.autograd.grad(out, ready.leaf, given, retain_graph=True)[0]


def _judged(first: Tensor, second: Tensor, exact: Tensor, torchs: float) -> Judged:
    error = _distance(first, exact)
    return Judged(error, error / torchs if torchs else 0.0, torch.equal(first, second))


def _distance(out: Tensor, reference: Tensor) -> float:
    return float((out.float() - reference).norm() / reference.norm())


def _leaf(qkv: Tensor) -> Tensor:
    return qkv.detach().requires_grad_(torch.is_grad_enabled())


def _ours(impl: str, rebuilt: bool = False) -> Peer:
    def prepare(case: Case, qkv: Tensor) -> Ready:
        layout = case.layout(qkv.device)
        leaf = _leaf(qkv)
        problem = unusable(impl, leaf)
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

    def packed(self, out: Tensor) -> Tensor:
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


def _explicit(case: Case, qkv: Tensor) -> Ready:
    """As I-JEPA's released code writes it, in the type of qkv."""
    batch, scale = _pad(case, qkv), case.width**-0.5
    bias = None if batch.uniform else torch.where(batch.real, 0.0, float("-inf"))[:, None, None].to(qkv.dtype)

    def call() -> Tensor:
        q, k, v = batch.parts
        scores = (q @ k.transpose(-2, -1)) * scale
        return ((scores if bias is None else scores + bias).softmax(-1) @ v).transpose(1, 2)

    return Ready(batch.leaf, call, batch.packed, batch.spread)


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

        def pinned() -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, f"{backend}_ATTENTION")):
                return call()

        return Ready(batch.leaf, pinned if backend else call, batch.packed, batch.spread)

    return prepare


def _nested(case: Case, qkv: Tensor) -> Ready:
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
