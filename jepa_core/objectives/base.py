"""The base class of loss terms, and predictions and targets as one tensor each.

Axes: S packed tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_core.settings.base import ObjectiveSettings
from jepa_core.types.step import Step


class LossTerm(nn.Module):
    """A loss term with its settings as `config`; by default these are `ObjectiveSettings` alone."""

    class Config(ObjectiveSettings):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config


def pair_values(step: Step) -> tuple[Tensor, Tensor]:
    """Predictions and targets of all pairs, [S, D] each, in fp32 (fp64 stays).

    Raises ValueError where there is nothing to compare.
    """
    if not step.predictions:
        raise ValueError(
            f"this term compares predictions with targets; the plan has {len(step.plan.pairs)} pairs "
            "and the model made no predictions"
        )
    predictions = torch.cat([p.values for p in step.predictions])
    targets = torch.cat([t.values for t in step.targets])
    wide = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    return predictions.to(wide), targets.to(wide)
