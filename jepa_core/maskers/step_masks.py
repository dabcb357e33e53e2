"""The masks of a training step, as a function of (seed, rank, step) alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jepa_core.maskers.multi_mask import draw_plan, side_names
from jepa_core.protocols import Masker
from jepa_core.runtime.seeding import step_generator
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan


@dataclass(frozen=True)
class ViewMasks:
    """The masker of a view other than the first, and the grid that it draws on.

    `crops`: masks of each sample, V, where the view is V crops of it; the plan then is of B·V.
    """

    masker: Masker
    grid: Grid
    crops: int = 1


@dataclass(frozen=True)
class StepMasks:
    """The masks of a rank's step, drawn from (seed, rank, step) alone; those of `others` for their views."""

    masker: Masker
    grid: Grid
    total_steps: int
    seed: int
    others: Mapping[str, ViewMasks] = field(default_factory=dict)

    @property
    def side(self) -> tuple[str, ...]:
        """The names of `Batch.side` that one of the maskers reads."""
        maskers = (self.masker, *(own.masker for own in self.others.values()))
        return tuple(dict.fromkeys(name for masker in maskers for name in side_names(masker)))

    def __call__(
        self, step: int, rank: int, batch_size: int, side: Mapping[str, Any] | None = None
    ) -> MaskPlan:
        """The plan for this step (0-based) of `total_steps`.

        `side` is the batch's, for maskers that read it. Raises UserError where it lacks what they read.
        """
        progress = min(1.0, step / max(1, self.total_steps))
        side = side or {}

        def draw(masker: Masker, grid: Grid, count: int, view: str = "") -> MaskPlan:
            generator = step_generator(self.seed, rank, step, f"masks/{view}" if view else "masks")
            return draw_plan(masker, grid, count, generator, progress, side)

        plan = draw(self.masker, self.grid, batch_size)
        if not self.others:
            return plan
        others = {
            view: draw(own.masker, own.grid, batch_size * own.crops, view)
            for view, own in self.others.items()
        }
        return replace(plan, others={**plan.others, **others})
