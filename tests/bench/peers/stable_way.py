"""stable-pretraining's I-JEPA: its method class as it comes, with its masks, in a plain loop."""

from __future__ import annotations

import torch
from stable_pretraining.methods import IJEPA
from torch import Tensor

from tests.bench.peers.cases import Case, Precision
from tests.bench.peers.ours import set_up


class StablePretraining:
    """A step of stable-pretraining's I-JEPA with AdamW as torch makes it.

    One target set for the whole batch, its four blocks predicted together in one sequence a sample.
    """

    def __init__(self, case: Case, precision: Precision, steps: int) -> None:
        self.model = IJEPA(case.timm_vit(), predictor_embed_dim=case.predictor_width, predictor_depth=1)
        self.bf16, self.steps = precision == "bf16", steps
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad])
        self.schedule = set_up(self.optimizer, case.recipe("truncated", precision, steps))

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """See `ours.Implementation`."""
        self.schedule(step)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(images).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.model.encoder.update_ema_coefficient(step, self.steps)
        self.model.encoder.update_teacher()
        return loss.detach()

    def features(self, images: Tensor) -> Tensor:
        """See `ours.Implementation`."""
        return self.model.encoder.teacher(images).encoded.mean(1)
