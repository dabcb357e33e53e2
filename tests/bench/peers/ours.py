"""What is compared: our step with three kinds of masks, and the released code's way of it.

An implementation is called with images [B, 3, H, W] and the step's number; it draws its masks, trains and
returns the loss. `features` are the target encoder's tokens, averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

import jepa_core
from jepa_core.assembly import step_masks
from jepa_core.schedules import warmup_cosine
from jepa_core.training.build import training_step
from jepa_ijepa.official_way import official_step
from tests.bench.peers.cases import Case, Masks, Precision


class Implementation(Protocol):
    """A training step of I-JEPA."""

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """Trains on images [B, 3, H, W]; the loss."""

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, D]: the target encoder's tokens, averaged."""


class Ours:
    """`jepa_core`'s step, as `jepa train` takes it."""

    def __init__(self, case: Case, masks: Masks, precision: Precision, steps: int) -> None:
        recipe = case.recipe(masks, precision, steps)
        self.model, self.batch = jepa_core.build_model(recipe), case.batch
        self.training = training_step(self.model, recipe)
        self.masks = step_masks(self.model, case.seed, steps)

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """See `Implementation`."""
        return self.training(images, self.masks(step, 0, self.batch, None)).loss.detach()

    def features(self, images: Tensor) -> Tensor:
        """See `Implementation`."""
        return self.model.encoder_of("target")(images).mean()


class Official:
    """The released code's way on our masks, cut as the release cuts them."""

    def __init__(self, case: Case, precision: Precision, steps: int) -> None:
        recipe = case.recipe("truncated", precision, steps)
        model = jepa_core.build_model(recipe)
        self.masks, self.batch = step_masks(model, case.seed, steps), case.batch
        self.way = official_step(recipe, model, self.masks(0, 0, case.batch, None))
        self.optimizer = set_up(self.way.optimizer, recipe)

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """See `Implementation`."""
        self.optimizer(step)
        return self.way(jepa_core.Batch.of(images), self.masks(step, 0, self.batch, None)).detach()

    def features(self, images: Tensor) -> Tensor:
        """See `Implementation`."""
        return self.way.target(images).mean(1)


def set_up(optimizer: torch.optim.Optimizer, recipe: jepa_core.Recipe) -> Callable[[int], None]:
    """Gives a peer's AdamW the settings of a recipe; the result sets the learning rate of a step."""
    settings, steps = recipe.optimizer, recipe.train.steps
    for group in optimizer.param_groups:
        group.update(weight_decay=settings.weight_decay, betas=settings.betas)

    def schedule(step: int) -> None:
        rate = warmup_cosine(step, steps, settings.warmup_steps, 0.0, settings.lr, settings.final_lr)
        for group in optimizer.param_groups:
            group["lr"] = rate

    return schedule
