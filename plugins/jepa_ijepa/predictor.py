"""I-JEPA's predictor: one mask token for every hidden place. See `jepa_core.nn.packed_predictor`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_core.nn.packed_predictor import PackedPredictor
from jepa_core.nn.packing import Mode
from jepa_core.nn.weight_init import rescale_depth
from jepa_core.protocols import Encoder
from jepa_core.types import MaskPlan
from jepa_core.types.sample import Fields


class VitPredictor(PackedPredictor):
    """I-JEPA's predictor for grids of any rank.

    Raises UserError for a width that the heads do not divide.
    Source: I-JEPA (arXiv 2301.08243), section 3 and appendix A.1.
    """

    class Config(PackedPredictor.Config):
        """Settings of the predictor."""

        depth_rescale: bool = False
        """Divide the output of block ℓ by √(2ℓ) at the start; off in effect in the official training."""
        context: Mode = "repeat"
        """`repeat`: a copy of the context for each target, which reads the target's mask tokens (I-JEPA).
        `shared`: the context once, for all its targets, reading only itself: fewer tokens, and another model
        from two blocks on."""

    config: Config

    def __init__(
        self, config: Config, encoder: Encoder, target_width: int, fields: Fields | None = None
    ) -> None:
        super().__init__(config, encoder, target_width, config.context, fields=fields)
        if config.depth_rescale:
            rescale_depth(self.blocks)

    def make_mask_tokens(self) -> None:
        """One, drawn."""
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.width))
        nn.init.trunc_normal_(self.mask_token, std=self.config.init_std)

    def token_of(self, target: int, plan: MaskPlan) -> Tensor:
        """[1, P]: the same for every target."""
        return self.mask_token[0]
