"""Ragged sets in fixed room: what a step needs whose shapes must not change, one recorded in a CUDA graph.

What is unusual: a set is padded at the end of the packed batch and not sample by sample. A few *fillers*,
sequences that stand for no sample, take up what a batch leaves of the room. Fillers hold tokens of the last
sample, attend to themselves alone, and reach neither loss nor gradient: objectives leave out rows that are
not `real`.

How much room there is follows from masks drawn for steps all over the run, so from recipe and seed alone. It
comes in *rungs* an eighth apart, for maskers that share their sizes over a batch give very different totals.

Axes: B samples, F fillers, S packed tokens, N tokens of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from jepa_core.types.index_set import IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.padded_set import PaddedSet
from jepa_core.types.step import Step
from jepa_core.types.tokens import Tokens

DRAWS = 64
"""Plans that are looked at in order to find how much room is needed."""

STEP = 1.125
"""A rung over the next lower one, at most."""

MULTIPLE = 16
"""What all rungs divide by, as kernels like it."""


@dataclass(frozen=True)
class Room:
    """Room for one set of a plan: as many packed tokens as one of `rungs`, in sequences of at most `longest`.

    `fillers` of the sequences are no sample's. Where every batch has the same `uniform` length there is
    nothing to pad.
    """

    rungs: tuple[int, ...]
    longest: int
    fillers: int
    uniform: int | None = None

    @classmethod
    def measured(cls, sets: Sequence[IndexSet], tokens: int) -> Room:
        """For the same set of several plans, on a grid of N = `tokens`."""
        first = sets[0]
        if first.uniform is not None and all(one.uniform == first.uniform for one in sets):
            return cls((first.total,), first.max_length, 0, first.uniform)
        totals = [one.total for one in sets]
        spread = (max(totals) - min(totals)) // 4  # what other draws may have more, or less
        least, most = max(1, min(totals) - spread), max(totals) + spread
        rungs = [_up(most)]
        while rungs[0] / STEP > least and _up(rungs[0] / STEP) < rungs[0]:
            rungs.insert(0, _up(rungs[0] / STEP))
        longest = min(tokens, max(one.max_length for one in sets) + tokens // 16)
        gap = max(above - below for below, above in pairwise([least, *rungs]))
        return cls(tuple(rungs), longest, math.ceil(gap / longest))

    def rung(self, one: IndexSet) -> int | None:
        """The room for this set, or None where it does not fit into any."""
        if self.uniform is not None:
            return self.rungs[0] if one.uniform == self.uniform and one.total == self.rungs[0] else None
        rung = next((rung for rung in self.rungs if rung >= one.total), None)
        fits = rung is not None and rung - one.total <= self.fillers * self.longest
        return rung if fits and one.max_length <= self.longest else None

    def pad(self, one: IndexSet, rung: int, tokens: int) -> IndexSet:
        """The set with fillers after it, which fill the room. One that is always the same stays as it is."""
        if self.uniform is not None:
            return one
        device, free = one.index.device, rung - one.total
        shares = free - self.longest * torch.arange(self.fillers, device=device)
        index = torch.cat([one.index, torch.arange(free, device=device) % tokens])
        lengths = torch.cat([one.lengths, shares.clamp(0, self.longest)])
        return PaddedSet(index, lengths, self.longest, None, self.fillers)


def _up(tokens: float) -> int:
    """The next multiple."""
    return MULTIPLE * math.ceil(tokens / MULTIPLE)


@dataclass(frozen=True)
class Capacity:
    """Room for each set (contexts first) of a masker's plans at one batch size, on a grid of N = `tokens`."""

    rooms: tuple[Room, ...]
    pairs: tuple[tuple[int, int], ...]
    tokens: int

    @classmethod
    def measured(cls, plans: Sequence[MaskPlan], tokens: int) -> Capacity:
        """Room for plans like these. Raises ValueError where they differ in their sets or pairs."""
        first = plans[0]
        for plan in plans:
            if len(plan.contexts) != len(first.contexts) or plan.pairs != first.pairs:
                raise ValueError(
                    f"plans have different sets or pairs: {len(first.contexts)} contexts with pairs "
                    f"{first.pairs}, and {len(plan.contexts)} with {plan.pairs}"
                )
        rooms = [Room.measured(sets, tokens) for sets in zip(*map(sets_of, plans), strict=True)]
        fillers = max((room.fillers for room in rooms), default=0)
        if fillers:  # sequence b of a context and of a target belong together, so all sets get as many
            rooms = [replace(room, fillers=fillers, uniform=None) for room in rooms]
        return cls(tuple(rooms), first.pairs, tokens)

    def pad(self, plan: MaskPlan) -> MaskPlan | None:
        """The plan in its room, or None where it does not fit."""
        sets = sets_of(plan)
        if len(sets) != len(self.rooms) or plan.pairs != self.pairs:
            return None
        rungs = [room.rung(one) for room, one in zip(self.rooms, sets, strict=True)]
        padded = [
            room.pad(one, rung, self.tokens)
            for room, one, rung in zip(self.rooms, sets, rungs, strict=True)
            if rung is not None
        ]
        taken = iter(padded)
        return plan.map(lambda _: next(taken)) if len(padded) == len(sets) else None


def afresh(plan: MaskPlan) -> MaskPlan:
    """The same sets without what was derived from them and kept."""
    return plan.map(replace)


def unpadded(step: Step, plan: MaskPlan) -> Step:
    """A step on padded sets as one on those of `plan`, which they were made from, wherever that lies.

    What is in the sets stays where it is, and no device is read.
    """
    real = [
        replace(given, index=mine.index[: given.total], lengths=mine.lengths[: given.batch_size])
        for mine, given in zip(sets_of(step.plan), sets_of(plan), strict=True)
    ]
    own = {id(mine): kept for mine, kept in zip(sets_of(step.plan), real, strict=True)}
    taken = iter(real)

    def cut(tokens: Tokens) -> Tokens:
        at = own.get(id(tokens.at))
        if at is None:
            return tokens
        return Tokens(tokens.values[: at.total], at, tokens.grid, tuple(v[: at.total] for v in tokens.layers))

    return replace(step.map(cut), plan=plan.map(lambda _: next(taken)))


def sets_of(plan: MaskPlan) -> tuple[IndexSet, ...]:
    """All sets of a plan, contexts first."""
    return (*plan.contexts, *plan.targets)
