"""A finished or stopped run's model, with the newest whole checkpoint's weights."""

from __future__ import annotations

import logging
from pathlib import Path

from jepa_core.assembly import build_model
from jepa_core.jepa import JEPA
from jepa_core.runs import checkpoints
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runtime.devices import usable_device
from jepa_core.settings.recipe import Recipe

log = logging.getLogger("jepa.run")


def open_model(folder: Path) -> tuple[Recipe, JEPA, int]:
    """A run's recipe, its model with the newest whole checkpoint's weights, and that checkpoint's step.

    What is wrong with newer ones is logged as a warning.
    """
    recipe = read_run_recipe(folder)
    model = build_model(recipe)
    checkpoint, damages = checkpoints.latest(folder)
    for damage in damages:
        log.warning("damaged checkpoint passed over: %s", damage)
    checkpoints.load_weights(checkpoint, model)
    return recipe, model.to(usable_device(recipe.train.device)).eval(), checkpoints.step_of(checkpoint)
