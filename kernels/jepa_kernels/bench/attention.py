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

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_kernels.attention import block_attention
from jepa_kernels.attention_choice import unusable
from jepa_kernels.bench.rows import (
    PROBLEMS,
    CannotRun,
    Row,
    Settings,
    Work,
    failed,
    timed,
    with_graph,
)
from jepa_kernels.bench.shapes import Case
from jepa_kernels.layout import Layout

DTYPE = torch.bfloat16
OURS = ("triton", "matmul", "sdpa", "varlen")


@dataclass(frozen=True)
class Ready:
    """A peer with its input: `call()` gives an output, `packed(output)` brings it to [T, H, D].

    leaf: what a gradient is wanted of, where it was made ready with gradients enabled
    graph: whether a CUDA graph can hold the call
    """

    leaf: Tensor
    call: Callable[[], Tensor]
    packed: Callable[[Tensor], Tensor] = lambda out: out
    graph: bool = True


Peer = Callable[[Case, Tensor], Ready]


def rows(case: Case, settings: Settings) -> Iterator[Row]:
    """Forward and backward of every implementation on one case."""
    qkv = torch.randn(sum(case.lengths), 3, case.heads, case.width, device=settings.device).to(DTYPE)
    reference = block_attention(qkv.float(), case.layout(settings.device), impl="sdpa")
    for name, peer in peers(settings.device).items():
        yield from _both(name, peer, case, qkv, reference, settings)


def peers(device: torch.device) -> dict[str, Peer]:
    """Everyone by name; those that cannot run say so when they are asked to."""
    ours = {f"ours: {impl}": _ours(impl) for impl in OURS}
    pinned = {
        f"SDPA padded, {name}": _sdpa(backend)
        for name, backend in (("cuDNN", "CUDNN"), ("flash", "FLASH"), ("efficient", "EFFICIENT"))
    }
    return {
        "ours: auto": _ours("auto"),
        **ours,
        "explicit softmax, padded": _explicit,
        "SDPA padded, torch's choice": _sdpa(None),
        **pinned,
        "FlexAttention, mask built each call": _ours("flex", rebuilt=True),
        "FlexAttention, mask kept": _ours("flex"),
        "xformers BlockDiagonalMask": _ours("xformers"),
        "NestedTensor, SDPA": _nested,
    }


def _both(
    name: str, peer: Peer, case: Case, qkv: Tensor, reference: Tensor, settings: Settings
) -> Iterator[Row]:
    """The row of the forward pass, then that of the backward pass."""
    size, count, operations = qkv.element_size(), case.numbers(), case.operations()
    forward = Row("attention", case.name, "forward", name, Work(4 * count * size, operations))
    backward = Row("attention", case.name, "backward", name, Work(7 * count * size, 2.5 * operations))
    with torch.no_grad():
        yield _forward(forward, lambda: peer(case, qkv), reference, settings)
    yield _backward(backward, lambda: peer(case, qkv), settings)


def _forward(row: Row, prepare: Callable[[], Ready], reference: Tensor, settings: Settings) -> Row:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's advice to its peers' users
            ready = prepare()
            error = _distance(ready.packed(ready.call()), reference)
    except PROBLEMS as problem:
        return failed(row, problem)
    row = timed(replace(row, error=error), ready.call, settings)
    return with_graph(row, ready.call, settings) if ready.graph else row


def _backward(row: Row, prepare: Callable[[], Ready], settings: Settings) -> Row:
    """Backward alone; its time in a graph is that of both passes less that of the forward pass."""
    try:
        ready = prepare()
        out = ready.call()
        grad = torch.randn_like(out)
    except PROBLEMS as problem:
        return failed(row, problem)
    found = timed(row, lambda: torch.autograd.grad(out, ready.leaf, grad, retain_graph=True), settings)
    forward = with_graph(found, ready.call, settings) if ready.graph else found
    if forward.time is None or forward.time.graph is None:
        return found
    both = lambda: torch.autograd.grad(ready.call(), ready.leaf, grad)  # noqa: E731
    return with_graph(found, both, settings, less=forward.time.graph)


def _distance(out: Tensor, reference: Tensor) -> float:
    return float((out.float() - reference).norm() / reference.norm())


def _leaf(qkv: Tensor) -> Tensor:
    return qkv.detach().requires_grad_(torch.is_grad_enabled())


def _ours(impl: str, rebuilt: bool = False) -> Peer:
    def prepare(case: Case, qkv: Tensor) -> Ready:
        layout = case.layout(qkv.device)
        leaf = _leaf(qkv)
        problem = None if impl == "auto" else unusable(impl, leaf)
        if problem is not None:
            raise CannotRun(problem)
        fresh: Callable[[], Layout] = (lambda: replace(layout)) if rebuilt else (lambda: layout)
        graph = impl in ("triton", "varlen", "auto") and not rebuilt
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
        """[B, L, H, D] -> [T, H, D]."""
        return out[self.real]


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

    return Ready(batch.leaf, call, batch.packed)


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

        return Ready(batch.leaf, pinned if backend else call, batch.packed)

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
