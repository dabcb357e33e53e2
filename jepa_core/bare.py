"""Parts that do nothing, for encoders that stand alone and methods that hide nothing.

`masker.name=none` makes empty plans: the whole view is context and target. `predictor.name=none` passes
the context's features on as predictions. A run of imported weights without a predictor has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator, nn

from jepa_core.protocols import Encoder
from jepa_core.settings import ComponentSettings
from jepa_core.types import Grid, MaskPlan, Tokens


class NoMasks:
    """Empty plans: nothing is hidden."""

    class Config(ComponentSettings):
        """It has no settings."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Every grid will do."""

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """The empty plan; draws nothing."""
        return MaskPlan()


class NoPredictor(nn.Module):
    """The identity: predictions are the context's features."""

    class Config(ComponentSettings):
        """It has no settings."""

    def __init__(self, config: Config, encoder: Encoder, target_width: int) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any = None
    ) -> tuple[Tokens, ...]:
        """The contexts as they are, one for each pair of the plan."""
        return tuple(contexts) if plan.empty else tuple(contexts[i] for i, _ in plan.pairs)
