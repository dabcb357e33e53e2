"""Buckets for ragged sets: padded to one of a few sizes, so that a step can be recorded in a CUDA graph.

What is unusual: a set is padded at the end of the packed batch and not sample by sample. A few padding
sequences, which belong to no sample, fill what a batch leaves free in its bucket. They hold tokens of the
last sample, attend to themselves alone, and reach neither loss nor gradient: objectives leave out the rows
that `IndexSet.valid` marks false.

The sizes are measured on masks drawn for steps all over the run, so they follow from recipe and seed alone.
Neighbouring sizes differ by an eighth, because maskers that share their block sizes over a batch give very
different totals.

Axes: B samples, S packed tokens, N tokens of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from jepa_core.types.index_set import IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.padded_set import PaddedSet
from jepa_core.types.step import Step
from jepa_core.types.tokens import Tokens

DRAWS = 64
"""Plans that are drawn in order to measure the bucket sizes."""

STEP = 1.125
"""Largest ratio of one bucket size to the next smaller one."""

MULTIPLE = 16
"""All bucket sizes are multiples of it, which suits the kernels' tiles."""


@dataclass(frozen=True)
class SetBuckets:
    """Bucket sizes of one set of a plan: totals of packed tokens, in sequences of at most `longest` tokens.

    `num_padding` sequences of the padded set belong to no sample. Where every batch has the same `uniform`
    length there is nothing to pad.
    """

    sizes: tuple[int, ...]
    longest: int
    num_padding: int
    uniform: int | None = None

    @classmethod
    def measure(cls, sets: Sequence[IndexSet], tokens: int) -> SetBuckets:
        """Buckets for the same set of several plans, on a grid of N = `tokens`."""
        first = sets[0]
        if first.uniform is not None and all(index_set.uniform == first.uniform for index_set in sets):
            return cls((first.total,), first.max_length, 0, first.uniform)
        totals = [index_set.total for index_set in sets]
        spread = (max(totals) - min(totals)) // 4  # other draws may have more tokens, or fewer
        least, most = max(1, min(totals) - spread), max(totals) + spread
        sizes = [_round_up(most)]
        while sizes[0] / STEP > least and _round_up(sizes[0] / STEP) < sizes[0]:
            sizes.insert(0, _round_up(sizes[0] / STEP))
        longest = min(tokens, max(index_set.max_length for index_set in sets) + tokens // 16)
        gap = max(above - below for below, above in pairwise([least, *sizes]))
        return cls(tuple(sizes), longest, math.ceil(gap / longest))

    def bucket_for(self, index_set: IndexSet) -> int | None:
        """The size of the bucket for this set, or None where it fits into none."""
        if self.uniform is not None:
            return (
                self.sizes[0]
                if index_set.uniform == self.uniform and index_set.total == self.sizes[0]
                else None
            )
        size = next((size for size in self.sizes if size >= index_set.total), None)
        fits = size is not None and size - index_set.total <= self.num_padding * self.longest
        return size if fits and index_set.max_length <= self.longest else None

    def pad(self, index_set: IndexSet, size: int, tokens: int) -> IndexSet:
        """The set padded to `size` tokens; one of the same length in every batch is returned unchanged."""
        if self.uniform is not None:
            return index_set
        free = size - index_set.total
        shares = free - self.longest * torch.arange(self.num_padding, device=index_set.index.device)
        return append_padding(index_set, free, shares.clamp(0, self.longest), tokens, self.longest)


def append_padding(own: IndexSet, free: int, shares: Tensor, tokens: int, longest: int) -> PaddedSet:
    """The set with padding sequences of `shares` [F] tokens, `free` in all, on a grid of N = `tokens`.

    `longest`: the greatest length that the padded set may have.
    """
    index = torch.cat([own.index, torch.arange(free, device=own.index.device) % tokens])
    return PaddedSet(index, torch.cat([own.lengths, shares]), longest, None, len(shares))


def _round_up(tokens: float) -> int:
    """The next multiple of MULTIPLE."""
    return MULTIPLE * math.ceil(tokens / MULTIPLE)


@dataclass(frozen=True)
class PlanBuckets:
    """Buckets for each set (contexts first) of a masker's plans of one batch size, on N = `tokens`."""

    buckets: tuple[SetBuckets, ...]
    pairs: tuple[tuple[int, int], ...]
    tokens: int

    @classmethod
    def measure(cls, plans: Sequence[MaskPlan], tokens: int) -> PlanBuckets:
        """Buckets for plans like these. Raises ValueError where they differ in their sets or pairs."""
        first = plans[0]
        for plan in plans:
            if len(plan.contexts) != len(first.contexts) or plan.pairs != first.pairs:
                raise ValueError(
                    f"plans have different sets or pairs: {len(first.contexts)} contexts with pairs "
                    f"{first.pairs}, and {len(plan.contexts)} with {plan.pairs}"
                )
        buckets = [SetBuckets.measure(sets, tokens) for sets in zip(*map(sets_of, plans), strict=True)]
        num_padding = max((bucket.num_padding for bucket in buckets), default=0)
        if num_padding:  # sequence b of a context and of a target belong together, so all sets get as many
            buckets = [replace(bucket, num_padding=num_padding, uniform=None) for bucket in buckets]
        return cls(tuple(buckets), first.pairs, tokens)

    def pad(self, plan: MaskPlan) -> MaskPlan | None:
        """The plan padded to its buckets, or None where it does not fit."""
        sets = sets_of(plan)
        if len(sets) != len(self.buckets) or plan.pairs != self.pairs or plan.others:
            return None
        sizes = [bucket.bucket_for(own) for bucket, own in zip(self.buckets, sets, strict=True)]
        padded = [
            bucket.pad(own, size, self.tokens)
            for bucket, own, size in zip(self.buckets, sets, sizes, strict=True)
            if size is not None
        ]
        in_order = iter(padded)
        return plan.map(lambda _: next(in_order)) if len(padded) == len(sets) else None


def without_cache(plan: MaskPlan) -> MaskPlan:
    """A copy of the plan whose sets have no cached properties."""
    return plan.map(replace)


def unpad(step: Step, plan: MaskPlan) -> Step:
    """A step on padded sets, cut back to the sets of `plan`, from which they were padded.

    Tensors stay on their device, and no value is read from it.
    """
    cut_sets = [
        replace(own, index=padded.index[: own.total], lengths=padded.lengths[: own.batch_size])
        for padded, own in zip(sets_of(step.plan), sets_of(plan), strict=True)
    ]
    cut_set_of = {id(padded): cut for padded, cut in zip(sets_of(step.plan), cut_sets, strict=True)}
    in_order = iter(cut_sets)

    def cut(tokens: Tokens) -> Tokens:
        at = cut_set_of.get(id(tokens.at))
        if at is None:
            return tokens
        layers = tuple(values[: at.total] for values in tokens.layers)
        return Tokens(tokens.values[: at.total], at, tokens.grid, layers)

    return replace(step.map(cut), plan=plan.map(lambda _: next(in_order)))


def sets_of(plan: MaskPlan) -> tuple[IndexSet, ...]:
    """All sets of a plan for the first view, contexts first."""
    return (*plan.contexts, *plan.targets)
