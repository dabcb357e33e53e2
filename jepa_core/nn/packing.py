"""The predictor's sequences: which token of which context or target stands in which row.

    repeat   every (context, target) pair is a sequence, [context | target]: the context is copied for each
             of its targets and reads the target's mask tokens (I-JEPA)
    shared   a context is there once, [context | target 1 | … | target M]: it reads itself, and each target
             reads it and itself; less than half the tokens at four targets, and another model

What is unusual: nothing is padded, and no token's row is found by a loop over samples. In a tensor where
sample after sample stands part after part, token s of a part in sample b has before it, besides its s
predecessors, the earlier parts of all samples up to b and the later parts of all samples before b.

Axes: S packed tokens, B samples, M targets of a context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from jepa_core.types.index_set import IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_kernels import Layout

Mode = Literal["repeat", "shared"]


class Source(NamedTuple):
    """One part of a sequence: a context's tokens, or a target's mask tokens, by its number in the plan."""

    kind: Literal["context", "target"]
    number: int


@dataclass(frozen=True, eq=False)
class Packing:
    """The rows of all sequences' tokens in the packed tensor, and the layout of their attention.

    sources: what is laid out, in the order in which `rows` counts its tokens
    rows: int64 [S], the row of each of these tokens
    guesses: for each pair of the plan, int64 [S of target j], the rows of its mask tokens
    """

    sources: tuple[Source, ...]
    rows: Tensor
    guesses: tuple[Tensor, ...]
    layout: Layout


def pack(plan: MaskPlan, mode: Mode) -> Packing:
    """The sequences for the pairs of a plan, which has at least one."""
    return _repeat(plan) if mode == "repeat" else _shared_packing(plan)


def _repeat(plan: MaskPlan) -> Packing:
    sets = [(plan.contexts[i], plan.targets[j]) for i, j in plan.pairs]
    placed = _place(sets)
    lengths = torch.cat([context.lengths + target.lengths for context, target in sets])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    longest = max(context.max_length + target.max_length for context, target in sets)
    total = sum(part.total for pair in sets for part in pair)
    layout = Layout.packed(offsets, max_len=longest, uniform=_uniform(sets), total=total)
    sources = [part for i, j in plan.pairs for part in (Source("context", i), Source("target", j))]
    rows = torch.cat([part for pair in placed for part in pair])
    return Packing(tuple(sources), rows, tuple(hidden for _, hidden in placed), layout)


def _shared_packing(plan: MaskPlan) -> Packing:
    targets_of: dict[int, list[int]] = {}
    for i, j in plan.pairs:
        targets_of.setdefault(i, []).append(j)
    sets = [(plan.contexts[i], *(plan.targets[j] for j in js)) for i, js in targets_of.items()]
    placed = _place(sets)
    most = max(len(js) for js in targets_of.values())
    none = torch.zeros_like(plan.contexts[0].lengths)
    columns = [[*(part.lengths for part in parts[1:]), *[none] * (most + 1 - len(parts))] for parts in sets]
    layout = Layout.jepa(
        torch.cat([parts[0].lengths for parts in sets]),
        torch.cat([torch.stack(column) for column in columns], dim=1),
        mode="shared",
        longest=(
            max(parts[0].max_length for parts in sets),
            max(part.max_length for parts in sets for part in parts[1:]),
        ),
        total=sum(part.total for parts in sets for part in parts),
    )
    sources: list[Source] = []
    row_of: dict[tuple[int, int], Tensor] = {}
    for (i, js), (_, *hidden) in zip(targets_of.items(), placed, strict=True):
        sources += [Source("context", i), *(Source("target", j) for j in js)]
        row_of |= {(i, j): rows for j, rows in zip(js, hidden, strict=True)}
    rows = torch.cat([part for parts in placed for part in parts])
    return Packing(tuple(sources), rows, tuple(row_of[pair] for pair in plan.pairs), layout)


def _place(sets: Sequence[Sequence[IndexSet]]) -> list[list[Tensor]]:
    """Rows of each part of each group of sequences; one group after the other."""
    placed, start = [], 0
    for parts in sets:
        placed.append([rows + start for rows in interleave(parts)])
        start += sum(part.total for part in parts)
    return placed


def interleave(parts: Sequence[IndexSet]) -> list[Tensor]:
    """Rows, from 0, of each part's packed tokens where each sample's parts stand one after the other."""
    rows = []
    for number, part in enumerate(parts):
        sample = part.segments
        before = torch.arange(part.total, device=part.index.device)
        for earlier in parts[:number]:
            before = before + earlier.offsets[sample + 1]
        for later in parts[number + 1 :]:
            before = before + later.offsets[sample]
        rows.append(before)
    return rows


def _uniform(sets: Sequence[tuple[IndexSet, IndexSet]]) -> int | None:
    """The length that all sequences share, if they do."""
    lengths = {
        context.uniform + target.uniform
        if context.uniform is not None and target.uniform is not None
        else None
        for context, target in sets
    }
    return lengths.pop() if len(lengths) == 1 else None
