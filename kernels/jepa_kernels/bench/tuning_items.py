"""Tuning items: one attention kernel for one row of the table, on sequences that it is launched for.

An item names its row's width, its kernel and its class of lengths, and makes launches of that kernel alone in
any tiles, on rotated inputs; buffers that earlier kernels write are filled before.

Axes: T packed rows, S sequences, H heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_kernels.bench.shapes import load
from jepa_kernels.bench.timing import Call
from jepa_kernels.layout import Layout
from jepa_kernels.triton_attention_table import Tiles, row_for

GENERAL = ("general forward", "general query_gradient", "general key_gradient")
HALF = torch.bfloat16


@dataclass(frozen=True)
class Item:
    """One kernel for one kind of input; `keys`: the bound of its class, 0 for the general kernels."""

    kernel: str
    keys: int
    width: int
    heads: int
    lengths: tuple[int, ...]

    @property
    def name(self) -> str:
        """The key in candidates.json."""
        return f"D {self.width} {self.kernel} {self.keys or 'any'}"

    def tiles(self, capability: int) -> Tiles:
        """The tiles that the table has for it."""
        row = row_for(self.width, HALF, capability)
        name = self.kernel.partition(" ")[2]
        if not self.keys:
            tiles: Tiles = getattr(row.general, name)
            return tiles
        length_class = next(length_class for length_class in row.classes if length_class.keys == self.keys)
        return length_class.forward if name == "forward" else length_class.backward


def items(samples: int | None = None) -> list[Item]:
    """All items, the most important first; `samples`: at most so many sequences each."""
    listed = [
        *_classes("I-JEPA B/16 context", 128, samples),
        *_classes("I-JEPA H/14 context", 128, samples),
        *_classes("I-JEPA L/16 predictor", 128, samples),
        *_classes("I-JEPA H/14 predictor", 256, samples),
        *_classes("CIFAR T/4 context", 64, samples),
        *_classes("CIFAR T/4 predictor", 64, samples),
    ]
    return listed + [
        Item(kernel, 0, case.width, case.heads, case.lengths[:samples])
        for case in (load("I-JEPA B/16 target"), load("I-JEPA H/14 target"))
        for kernel in GENERAL
    ]


def _classes(name: str, keys: int, samples: int | None) -> list[Item]:
    case, over = load(name), keys // 2
    lengths = tuple(length for length in case.lengths if over < length <= keys or keys == 64)[:samples]
    kernels = ("short forward", "short backward")
    return [Item(kernel, keys, case.width, case.heads, lengths) for kernel in kernels]


Launches = Callable[[Tiles], Call]


def launches(item: Item, device: torch.device) -> tuple[Launches, Tensor]:
    """(makes a launch in any tiles, what the launch writes) on one fresh random input."""
    from jepa_kernels import triton_attention as ops
    from jepa_kernels import triton_attention_short as short

    layout = Layout.packed(torch.tensor([0, *item.lengths]).cumsum(0)).to(device)
    qkv = torch.randn(layout.total, 3, item.heads, item.width, device=device).to(HALF)
    grad, scale = torch.randn_like(qkv[:, 0]), item.width**-0.5
    if not item.keys:
        return _launches_of_general(item, qkv, grad, layout, scale)
    out = torch.zeros_like(grad if item.kernel == "short forward" else qkv)
    grid, over = (layout.segments * item.heads,), item.keys // 2 if item.keys > 64 else 0
    kernel = short.forward_kernel if item.kernel == "short forward" else short.backward_kernel
    inputs = (qkv,) if item.kernel == "short forward" else (qkv, grad)
    args = (*inputs, layout.seg, out, item.heads, scale)
    return (lambda tiles: lambda: ops.launch(kernel, grid, qkv, tiles, *args, OVER=over)), out


def _launches_of_general(
    item: Item, qkv: Tensor, grad: Tensor, layout: Layout, scale: float
) -> tuple[Launches, Tensor]:
    from jepa_kernels import triton_attention as ops
    from jepa_kernels import triton_attention_general as general

    numbers, seg, longest = (len(qkv), item.heads, scale), layout.seg, layout.max_len
    class_bound = row_for(item.width, HALF).short_bound  # as in the operation: compiled once
    out, dqkv = torch.zeros_like(grad), torch.zeros_like(qkv)
    lse = torch.zeros(item.heads, len(qkv), device=qkv.device)
    stats = torch.zeros_like(lse, dtype=torch.int64)

    def at(kernel: Any, tile: Callable[[Tiles], int], args: Sequence[Any], **more: Any) -> Launches:
        def in_tiles(tiles: Tiles) -> Call:
            grid = (layout.segments * item.heads, -(-longest // tile(tiles)))
            return lambda: ops.launch(kernel, grid, qkv, tiles, *args, *numbers, TAKEN=class_bound, **more)

        return in_tiles

    run = {
        "general forward": at(general.forward_kernel, _queries, (qkv, seg, out, lse)),
        "general query_gradient": at(
            general.query_gradient_kernel, _queries, (qkv, out, grad, lse, seg, dqkv, stats)
        ),
        "general key_gradient": at(
            general.key_gradient_kernel, _keys, (qkv, grad, stats, seg, seg, dqkv), PLAIN=True
        ),
    }
    for before in GENERAL[: GENERAL.index(item.kernel)]:
        run[before](row_for(item.width, HALF).general[GENERAL.index(before)])()
    return run[item.kernel], out if item.kernel == "general forward" else dqkv


def _queries(tiles: Tiles) -> int:
    return tiles.queries


def _keys(tiles: Tiles) -> int:
    return tiles.keys
