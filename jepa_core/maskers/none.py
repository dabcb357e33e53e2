"""No masks: `masker.name=none` makes empty plans, so the whole view is context and target."""

from __future__ import annotations

from torch import Generator

from jepa_core.settings.base import ComponentSettings
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan


class NoMasks:
    """Empty plans: nothing is hidden."""

    class Config(ComponentSettings):
        """It has no settings."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Accepts every grid."""

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """The empty plan; draws nothing."""
        return MaskPlan()
