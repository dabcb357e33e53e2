"""Checks of maskers (`protocols.Masker`), on grids of one, two and three axes.

Axes: B samples, N tokens of the grid.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.maskers.multi_mask import draw_plan, side_names
from jepa_core.testing.outcomes import NotAsked, require, require_same, untouched_randomness
from jepa_core.testing.subject import Subject
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.mask_plan import MaskPlan

GRIDS: tuple[Grid, ...] = (
    (1,), (2,), (16,), (31,), (1, 1), (2, 3), (4, 4), (5, 9), (14, 14), (2, 3, 4), (4, 6, 6)
)  # fmt: skip
BATCHES = (1, 5)


@runtime_checkable
class SaysDisjoint(Protocol):
    """A masker, or its settings, that says whether no target is visible in a context it is predicted from."""

    disjoint: bool


@dataclass(frozen=True)
class MaskerCase:
    """A masker, and the plans it draws on the grids that its `check` accepts."""

    subject: Subject

    def make(self) -> Any:
        """A new masker."""
        return self.subject.component(self.subject.config)

    def draw(
        self, grid: Grid, batch: int = 5, seed: int = 0, progress: float = 0.0, masker: Any = None
    ) -> MaskPlan:
        """The plan that `masker`, or a new one, draws from the seed.

        One that reads `Batch.side` gets a random map from 0 to 1, [B, *grid], for each name.
        """
        draw, masker = torch.Generator().manual_seed(seed), masker or self.make()
        maps = torch.Generator().manual_seed(-1 - seed)
        side = {name: torch.rand(batch, *grid, generator=maps) for name in side_names(masker)}
        return draw_plan(masker, grid, batch, draw, progress, side)

    def grids(self) -> list[Grid]:
        """The grids that `check` accepts. Raises UserError where there is none."""
        refusal: UserError | None = None
        accepted = []
        for grid in GRIDS:
            try:
                self.make().check(grid)
                accepted.append(grid)
            except UserError as error:
                refusal = error
        if refusal and not accepted:
            raise refusal
        return accepted

    def plans(self) -> Iterator[tuple[str, Grid, int, MaskPlan]]:
        """(description of the request, grid, B, plan), several for each grid."""
        for grid in self.grids():
            for batch in BATCHES:
                for seed, progress in ((0, 0.0), (1, 0.5), (2, 1.0)):
                    request = f"grid {grid}, {batch} samples, progress {progress:g}"
                    yield request, grid, batch, self.draw(grid, batch, seed, progress)


def check_is_right(case: MaskerCase) -> None:
    """Where `check` lets a grid pass a plan for the whole batch is drawn; where not, it names the grid."""
    for request, _, batch, plan in case.plans():
        require(plan.batch_size in (None, batch), f"{request}: the plan speaks of {plan.batch_size}")
    for grid in set(GRIDS) - set(case.grids()):
        try:
            case.make().check(grid)
        except UserError as error:
            complete = all(str(side) in str(error) for side in grid)
            require(complete, f"the error for a grid {grid} does not name it: {error}")


def places(case: MaskerCase) -> None:
    """Every sample has at least one token in each set, none outside the grid, ascending, none twice."""
    for request, grid, _, plan in case.plans():
        for index_set in (*plan.contexts, *plan.targets):
            require(bool((index_set.lengths > 0).all()), f"{request}: a sample has a set without tokens")
            low, high = (int(end) for end in index_set.index.aminmax())
            inside = low >= 0 and high < grid_size(grid)
            require(inside, f"{request}: tokens {low} … {high}; the grid has 0 … {grid_size(grid) - 1}")
            within = index_set.samples[1:] == index_set.samples[:-1]
            steps = (index_set.index[1:] - index_set.index[:-1])[within]
            require(bool((steps > 0).all()), f"{request}: the tokens of a sample do not ascend")


def numbers_agree(case: MaskerCase) -> None:
    """Index sets are whole numbers on the CPU, and their totals and bounds are right."""
    for request, _, _, plan in case.plans():
        for index_set in (*plan.contexts, *plan.targets):
            expected = IndexSet.from_lengths(index_set.index, index_set.lengths)
            require(
                index_set.index.dtype == torch.long and not index_set.index.is_cuda,
                f"{request}: {index_set.index.dtype}",
            )
            require(
                (index_set.max_length, index_set.uniform) == (expected.max_length, expected.uniform),
                f"{request}: max_length and uniform are {index_set.max_length}, {index_set.uniform}; "
                f"by the lengths {expected.max_length}, {expected.uniform}",
            )


def disjoint(case: MaskerCase) -> None:
    """No token of a target is visible in a context that it is predicted from."""
    if any(
        isinstance(part, SaysDisjoint) and not part.disjoint for part in (case.subject.config, case.make())
    ):
        raise NotAsked("it says that targets may be visible (disjoint = False)")
    for request, grid, _, plan in case.plans():
        for i, j in plan.pairs:
            overlap = plan.contexts[i].mask(grid_size(grid)) & plan.targets[j].mask(grid_size(grid))
            count = int(overlap.sum())
            require(
                not count, f"{request}, pair {(i, j)}: {count} tokens are both visible and to be predicted"
            )


def generator_alone(case: MaskerCase) -> None:
    """A plan follows from the generator alone: not from global randomness, nor from earlier plans."""
    masker = case.make()
    for grid in case.grids():
        with untouched_randomness():
            first = case.draw(grid, masker=masker)
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        _require_alike(case.draw(grid, masker=masker), first, f"grid {grid}, drawn again")
        _require_alike(case.draw(grid), first, f"grid {grid}, drawn by a fresh masker")


def travels(case: MaskerCase) -> None:
    """It can be pickled, as data workers need it, and draws the same there."""
    grid, masker = case.grids()[-1], case.make()
    copy = pickle.loads(pickle.dumps(masker))
    _require_alike(case.draw(grid, masker=copy), case.draw(grid, masker=masker), "after pickling")


def _require_alike(actual: MaskPlan, expected: MaskPlan, message: str) -> None:
    require(actual.pairs == expected.pairs, f"{message}: the pairs are others")
    require_same(_tensors(actual), _tensors(expected), f"{message}: the plan is another")


def _tensors(plan: MaskPlan) -> list[Tensor]:
    return [
        part for index_set in (*plan.contexts, *plan.targets) for part in (index_set.index, index_set.lengths)
    ]


CHECKS = (check_is_right, places, numbers_agree, disjoint, generator_alone, travels)
