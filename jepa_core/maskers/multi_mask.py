"""Several context and target sets of each sample over one pass of the target encoder.

The target encoder sees the whole input whatever is hidden, and is 30 to 50 % of a step's work; V-JEPA
(arXiv 2404.08471) draws several pairs of sets for each of its passes. Any masker whose settings derive from
`MaskerSettings` can: `masker.sets=2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Generator

from jepa_core.errors import UserError
from jepa_core.protocols import Masker, SideMasker
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan


class MultiMask:
    """A masker that draws `sets` plans of another one; each set's targets belong to its own contexts."""

    Config: Any

    def __init__(self, masker: Masker, sets: int) -> None:
        self.masker, self.sets = masker, sets
        self.Config = masker.Config

    @property
    def side(self) -> tuple[str, ...]:
        """The names of `Batch.side` that the masker reads."""
        return side_names(self.masker)

    def check(self, grid: Grid) -> None:
        """Raises UserError where the masker does."""
        self.masker.check(grid)

    def __call__(
        self,
        grid: Grid,
        batch_size: int,
        generator: Generator,
        progress: float = 0.0,
        side: Mapping[str, Any] | None = None,
    ) -> MaskPlan:
        """The plans one after the other; the first is the one that the masker alone would draw."""
        drawn = (grid, batch_size, generator, progress, side or {})
        return concat_plans([draw_plan(self.masker, *drawn) for _ in range(self.sets)])


def side_names(masker: Masker) -> tuple[str, ...]:
    """The names of `Batch.side` that a masker reads; none for one whose masks follow no sample."""
    return tuple(masker.side) if isinstance(masker, SideMasker) else ()


def draw_plan(
    masker: Masker,
    grid: Grid,
    batch_size: int,
    generator: Generator,
    progress: float,
    side: Mapping[str, Any],
) -> MaskPlan:
    """The masker's plan; one that reads `Batch.side` gets what it asks for, and nothing else of it.

    Raises UserError where `side` lacks it.
    """
    names = side_names(masker)
    if not names:
        return masker(grid, batch_size, generator, progress)
    missing = [name for name in names if name not in side]
    if missing:
        inner = masker.masker if isinstance(masker, MultiMask) else masker
        raise UserError(
            f"the masker {type(inner).__name__} reads side.{missing[0]}, which the batch lacks; "
            f"its side has: {', '.join(side) or 'nothing'}"
        )
    with_side: Any = masker  # a SideMasker, whose call takes one argument more
    plan: MaskPlan = with_side(
        grid, batch_size, generator, progress, side={name: side[name] for name in names}
    )
    return plan


def concat_plans(plans: Sequence[MaskPlan]) -> MaskPlan:
    """The plans of one batch as one: their contexts, their targets, and their pairs with new numbers.

    Those of other views are joined view by view.
    """
    pairs: list[tuple[int, int]] = []
    contexts, targets = 0, 0
    for plan in plans:
        pairs += [(contexts + i, targets + j) for i, j in plan.pairs]
        contexts, targets = contexts + len(plan.contexts), targets + len(plan.targets)
    return MaskPlan(
        tuple(context for plan in plans for context in plan.contexts),
        tuple(target for plan in plans for target in plan.targets),
        tuple(pairs),
        {view: concat_plans([plan.of(view) for plan in plans]) for view in plans[0].others},
    )
