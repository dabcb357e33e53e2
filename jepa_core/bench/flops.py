"""Floating point operations that a training step cannot do without: matrix products, twice a multiply-add.

What is unusual: linear layers are counted where torch does them, by its own counter; attention is counted
from the lengths of the sequences, so that padding is nobody's work. Activations that are computed again in
the backward pass count each time, as they do for the machine.

Axes: S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jepa_core.nn.attention import PackedAttention
from jepa_kernels import Layout

LINEAR = (torch.ops.aten.mm, torch.ops.aten.addmm)


def count(model: nn.Module, step: Callable[[], Any]) -> int:
    """Operations of one call of `step`, which runs `model` forward and backward."""
    with FlopCounterMode(display=False) as counter, _attention(model) as attended:
        step()
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(product, 0) for product in LINEAR) + sum(attended)


@contextmanager
def _attention(model: nn.Module) -> Iterator[list[int]]:
    """While it is entered, the operations of each attention that runs, its backward pass included."""
    found: list[int] = []

    def seen(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        layout: Layout = named["attn_mask"]
        _, queries, _, first, _, second = layout.seg.cpu().long().unbind(1)
        forward = 4 * int((queries * (first + second)).sum()) * args[0].shape[-1]
        found.append(forward * (3 if torch.is_grad_enabled() else 1))

    handles = [
        module.register_forward_pre_hook(seen, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, PackedAttention)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
