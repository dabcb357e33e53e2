"""The masks of a training step, as a function of (seed, rank, step) alone."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_core.protocols import Masker
from jepa_core.runtime.seeding import step_generator
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan


@dataclass(frozen=True)
class StepMasks:
    """The masks of a rank's step, drawn from (seed, rank, step) alone."""

    masker: Masker
    grid: Grid
    total_steps: int
    seed: int

    def __call__(self, step: int, rank: int, batch_size: int) -> MaskPlan:
        """The plan for this step (0-based) of `total_steps`."""
        progress = min(1.0, step / max(1, self.total_steps))
        generator = step_generator(self.seed, rank, step, "masks")
        return self.masker(self.grid, batch_size, generator, progress)
