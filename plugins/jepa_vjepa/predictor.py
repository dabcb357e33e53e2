"""V-JEPA's predictor: it is told which of a step's target sets it guesses, by a mask token for each.

Sequences, blocks and positions are those of `jepa_core.nn.packed_predictor`.
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.packed_predictor import PackedPredictor
from jepa_core.types import MaskPlan


class PairPredictor(PackedPredictor):
    """V-JEPA's predictor for grids of any rank: target set j of a plan has mask token j, zero at the start.

    Raises UserError for a width that the heads do not divide, and for plans with another number of targets.
    Source: V-JEPA (arXiv 2404.08471).
    """

    class Config(PackedPredictor.Config):
        """Settings of the predictor."""

        mask_tokens: PositiveInt = 2
        """Target sets of a plan that are told apart, one for each pair of `multiblock3d`. With more sets, as
        `masker.sets` makes, the tokens are used in turn."""

    config: Config

    def make_mask_tokens(self) -> None:
        """Zeros, one for each target set."""
        tokens = (torch.zeros(1, 1, self.width) for _ in range(self.config.mask_tokens))
        self.mask_tokens = nn.ParameterList(nn.Parameter(token) for token in tokens)

    def token_of(self, target: int, plan: MaskPlan) -> Tensor:
        """[1, P]. Raises UserError where the targets of the plan cannot share the tokens alike."""
        targets, tokens = len(plan.targets), len(self.mask_tokens)
        if targets % tokens:
            raise UserError(
                f"predictor {self.config.name!r} has {tokens} mask tokens and the masker draws {targets} "
                f"target sets; set predictor.mask_tokens={targets}"
            )
        return self.mask_tokens[target % tokens][0]
