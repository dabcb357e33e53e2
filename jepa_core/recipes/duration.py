"""How long a recipe trains: optimizer steps in all, and of the warm-up."""

from __future__ import annotations

import math

from jepa_core.errors import UserError
from jepa_core.settings.recipe import Recipe


def total_steps_of(recipe: Recipe, images: int | None = None) -> int:
    """Optimizer steps of a recipe; `images` is the size of the training split.

    Raises UserError where neither `train.steps` nor the size of an epoch is known.
    """
    train = recipe.train
    images = train.epoch_images or images
    if train.steps is not None:
        return train.steps
    if train.epochs is None and train.hours is not None:
        raise UserError("train.hours becomes a number of steps when a run starts; give train.steps")
    if train.epochs is None or not images:
        missing = "train.steps or train.epochs" if images else "train.epoch_images (or train.steps)"
        raise UserError(f"the recipe does not say how long to train; give {missing}")
    exact = train.epochs * (images // train.batch_size)
    if exact >= 2**63:
        raise UserError(
            f"train.epochs {train.epochs:g} of {images} images are more steps than can be counted"
        )
    total = math.floor(exact)
    if total == 0:
        raise UserError(
            f"{train.epochs:g} epochs of {images} images do not fill one batch of {train.batch_size}; "
            "raise train.epochs, or lower train.batch_size"
        )
    return total


def steps_of(recipe: Recipe, images: int | None = None) -> tuple[int, int]:
    """(optimizer steps, warm-up steps) of a recipe. Raises UserError as `total_steps_of` does, and where
    the warm-up is given in epochs of unknown size."""
    total, optimizer = total_steps_of(recipe, images), recipe.optimizer
    images = recipe.train.epoch_images or images
    if optimizer.warmup_steps is not None:
        return total, optimizer.warmup_steps
    if not optimizer.warmup_epochs:
        return total, math.floor((optimizer.warmup_share or 0) * total)
    if not images:
        raise UserError("optimizer.warmup_epochs needs the size of an epoch; give optimizer.warmup_steps")
    warmup = optimizer.warmup_epochs * (images // recipe.train.batch_size)
    return total, math.floor(min(warmup, 2**62))
