"""No predictor: `predictor.name=none` passes the context's features on as predictions.

A run of imported weights without a predictor has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from jepa_core.protocols import Encoder
from jepa_core.settings.base import ComponentSettings
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens


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
