"""lightly's I-JEPA: its encoder wrapper, predictor, collator and momentum update, joined in a plain loop.

Axes: B samples, K kept tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from lightly.data import IJEPAMaskCollator
from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM
from lightly.models.utils import apply_masks, update_momentum
from torch import Tensor
from torch.nn import functional as F

from jepa_core import build_model
from jepa_core.assembly import step_masks
from tests.bench.peers.cases import Case, Precision
from tests.bench.peers.ours import set_up

DrawMasks = Callable[[int], tuple[list[Tensor], list[Tensor]]]
"""Masks of a step: indices [B, K] of each context, and of each target."""


def own_masks(case: Case) -> DrawMasks:
    """lightly's collator with the paper's scales; it does not end on grids whose blocks are too small."""
    collate = IJEPAMaskCollator(
        case.image,
        case.patch,
        enc_mask_scale=(0.85, 1.0),
        pred_mask_scale=(0.15, 0.2),
        aspect_ratio=(0.75, 1.5),
        nenc=1,
        npred=4,
    )

    def draw(step: int) -> tuple[list[Tensor], list[Tensor]]:
        _, contexts, targets = collate(list(range(case.batch)))
        return contexts, targets

    return draw


def our_masks(case: Case, precision: Precision, steps: int) -> DrawMasks:
    """Our masks, cut as the release cuts them."""
    masks = step_masks(build_model(case.recipe("truncated", precision, steps)), case.seed, steps)

    def draw(step: int) -> tuple[list[Tensor], list[Tensor]]:
        plan = masks(step, 0, case.batch, None)
        return [plan.contexts[0].dense()], [target.dense() for target in plan.targets]

    return draw


class Lightly:
    """A step of lightly's I-JEPA with AdamW as torch makes it."""

    def __init__(self, case: Case, precision: Precision, steps: int, masks: DrawMasks) -> None:
        self.masks, self.bf16 = masks, precision == "bf16"
        self.encoder = MaskedVisionTransformerTIMM(case.timm_vit())
        rows, columns = case.grid
        self.predictor = IJEPAPredictorTIMM(
            num_patches=rows * columns,
            depth=1,
            mlp_dim=case.width,
            predictor_embed_dim=case.predictor_width,
            num_heads=case.predictor_heads,
        )
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        trained = [p for m in (self.encoder, self.predictor) for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained)
        self.steps = steps
        self.schedule = set_up(self.optimizer, case.recipe("truncated", precision, steps))

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """See `ours.Implementation`."""
        self.schedule(step)
        contexts, targets = self.masks(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                whole = self.target(images)
                wanted = apply_masks(F.layer_norm(whole, whole.shape[-1:]), targets)
            seen = self.encoder(images, idx_keep=contexts[0])
            loss = F.smooth_l1_loss(self.predictor(seen, contexts, targets), wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            update_momentum(self.encoder, self.target, 0.996 + 0.004 * step / self.steps)
        return loss.detach()

    def features(self, images: Tensor) -> Tensor:
        """See `ours.Implementation`."""
        return self.target(images).mean(1)
