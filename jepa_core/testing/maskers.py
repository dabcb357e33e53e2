"""What is asked of maskers (`protocols.Masker`), on grids of one, two and three axes.

Axes: B samples, N tokens of the grid.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.settings.base import MaskerSettings
from jepa_core.testing.outcomes import NotAsked, require, require_same, untouched_randomness
from jepa_core.testing.subject import Subject
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.mask_plan import MaskPlan

GRIDS: tuple[Grid, ...] = (
    (1,), (2,), (16,), (31,), (1, 1), (2, 3), (4, 4), (5, 9), (14, 14), (2, 3, 4), (4, 6, 6)
)  # fmt: skip
BATCHES = (1, 5)


@dataclass(frozen=True)
class MaskerCase:
    """A masker, and the plans it draws where its `check` lets a grid pass."""

    subject: Subject

    def make(self) -> Any:
        """A fresh masker."""
        return self.subject.component(self.subject.config)

    def draw(
        self, grid: Grid, batch: int = 5, seed: int = 0, progress: float = 0.0, masker: Any = None
    ) -> MaskPlan:
        """The plan that a fresh masker, or this one, draws from the seed."""
        plan: MaskPlan = (masker or self.make())(grid, batch, torch.Generator().manual_seed(seed), progress)
        return plan

    def grids(self) -> list[Grid]:
        """The grids that `check` lets pass. Raises UserError where there is none."""
        refused: UserError | None = None
        passed = []
        for grid in GRIDS:
            try:
                self.make().check(grid)
                passed.append(grid)
            except UserError as error:
                refused = error
        if refused and not passed:
            raise refused
        return passed

    def plans(self) -> Iterator[tuple[str, Grid, int, MaskPlan]]:
        """What was asked, in words, the grid, B, and the plan: several of each grid."""
        for grid in self.grids():
            for batch in BATCHES:
                for seed, progress in ((0, 0.0), (1, 0.5), (2, 1.0)):
                    asked = f"grid {grid}, {batch} samples, progress {progress:g}"
                    yield asked, grid, batch, self.draw(grid, batch, seed, progress)


def check_is_right(case: MaskerCase) -> None:
    """Where `check` lets a grid pass a plan for the whole batch is drawn; where not, it names the grid."""
    for asked, _, batch, plan in case.plans():
        require(plan.batch_size in (None, batch), f"{asked}: the plan speaks of {plan.batch_size}")
    for grid in set(GRIDS) - set(case.grids()):
        try:
            case.make().check(grid)
        except UserError as error:
            named = all(str(side) in str(error) for side in grid)
            require(named, f"the error for a grid {grid} does not name it: {error}")


def places(case: MaskerCase) -> None:
    """Every sample has at least one token in each set, none outside the grid, ascending, none twice."""
    for asked, grid, _, plan in case.plans():
        for kept in (*plan.contexts, *plan.targets):
            require(bool((kept.lengths > 0).all()), f"{asked}: a sample has a set without tokens")
            low, high = (int(end) for end in kept.index.aminmax())
            inside = low >= 0 and high < grid_size(grid)
            require(inside, f"{asked}: tokens {low} … {high}; the grid has 0 … {grid_size(grid) - 1}")
            within = kept.samples[1:] == kept.samples[:-1]
            steps = (kept.index[1:] - kept.index[:-1])[within]
            require(bool((steps > 0).all()), f"{asked}: the tokens of a sample do not ascend")


def numbers_agree(case: MaskerCase) -> None:
    """Index sets are whole numbers on the CPU, and their totals and bounds are right."""
    for asked, _, _, plan in case.plans():
        for kept in (*plan.contexts, *plan.targets):
            right = IndexSet.from_lengths(kept.index, kept.lengths)
            require(kept.index.dtype == torch.long and not kept.index.is_cuda, f"{asked}: {kept.index.dtype}")
            require(
                (kept.max_length, kept.uniform) == (right.max_length, right.uniform),
                f"{asked}: max_length and uniform are {kept.max_length}, {kept.uniform}; "
                f"by the lengths {right.max_length}, {right.uniform}",
            )


def disjoint(case: MaskerCase) -> None:
    """No token of a target is visible in a context that it is predicted from."""
    config = case.subject.config
    if isinstance(config, MaskerSettings) and not config.disjoint:
        raise NotAsked("its settings say that targets may be visible (disjoint = False)")
    for asked, grid, _, plan in case.plans():
        for i, j in plan.pairs:
            both = plan.contexts[i].mask(grid_size(grid)) & plan.targets[j].mask(grid_size(grid))
            count = int(both.sum())
            require(not count, f"{asked}, pair {(i, j)}: {count} tokens are both visible and to be predicted")


def generator_alone(case: MaskerCase) -> None:
    """A plan follows from the generator alone: not from global randomness, nor from earlier plans."""
    used = case.make()
    for grid in case.grids():
        with untouched_randomness():
            first = case.draw(grid, masker=used)
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        _require_alike(case.draw(grid, masker=used), first, f"grid {grid}, drawn again")
        _require_alike(case.draw(grid), first, f"grid {grid}, drawn by a fresh masker")


def travels(case: MaskerCase) -> None:
    """It can be pickled, as data workers need it, and draws the same there."""
    grid, masker = case.grids()[-1], case.make()
    copied = pickle.loads(pickle.dumps(masker))
    _require_alike(case.draw(grid, masker=copied), case.draw(grid, masker=masker), "after pickling")


def _require_alike(found: MaskPlan, expected: MaskPlan, said: str) -> None:
    require(found.pairs == expected.pairs, f"{said}: the pairs are others")
    require_same(_tensors(found), _tensors(expected), f"{said}: the plan is another")


def _tensors(plan: MaskPlan) -> list[Tensor]:
    return [part for kept in (*plan.contexts, *plan.targets) for part in (kept.index, kept.lengths)]


CHECKS = (check_is_right, places, numbers_agree, disjoint, generator_alone, travels)
