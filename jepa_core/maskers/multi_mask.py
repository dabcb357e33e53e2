"""Several context and target sets of each sample over one pass of the target encoder.

The target encoder sees the whole input whatever is hidden, and is 30 to 50 % of a step's work; V-JEPA
(arXiv 2404.08471) draws several pairs of sets for each of its passes. Any masker whose settings derive from
`MaskerSettings` can: `masker.sets=2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator

from jepa_core.protocols import Masker
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan


class MultiMask:
    """A masker that draws `sets` plans of another one; each set's targets belong to its own contexts."""

    Config: Any

    def __init__(self, masker: Masker, sets: int) -> None:
        self.masker, self.sets = masker, sets
        self.Config = masker.Config

    def check(self, grid: Grid) -> None:
        """Raises UserError where the masker does."""
        self.masker.check(grid)

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """The plans one after the other; the first is the one that the masker alone would draw."""
        return concat_plans([self.masker(grid, batch_size, generator, progress) for _ in range(self.sets)])


def concat_plans(plans: Sequence[MaskPlan]) -> MaskPlan:
    """The plans of one batch as one: their contexts, their targets, and their pairs with new numbers."""
    pairs: list[tuple[int, int]] = []
    contexts, targets = 0, 0
    for plan in plans:
        pairs += [(contexts + i, targets + j) for i, j in plan.pairs]
        contexts, targets = contexts + len(plan.contexts), targets + len(plan.targets)
    return MaskPlan(
        tuple(context for plan in plans for context in plan.contexts),
        tuple(target for plan in plans for target in plan.targets),
        tuple(pairs),
    )
