"""A finished or stopped run's model, with the newest whole checkpoint's weights."""

from __future__ import annotations

import logging
from pathlib import Path

from jepa_core.assembly import build_model, described_fields
from jepa_core.jepa import JEPA
from jepa_core.runs import checkpoints
from jepa_core.runs.fields_file import read_fields
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runs.transforms_file import open_transforms
from jepa_core.runtime.devices import usable_device
from jepa_core.settings.recipe import Recipe
from jepa_core.types.sample import Fields

log = logging.getLogger("jepa.run")


def open_initial_model(folder: Path, recipe: Recipe) -> JEPA | None:
    """The model that a run began with, where that was not a random one and training has gone on since.

    It is the checkpoint of step 0: imported weights, or those of `[init.PART]`. `recipe` is the run's. Raises
    UserError where it is damaged or cannot be read.
    """
    saved = checkpoints.list_checkpoints(folder)
    if len(saved) < 2 or not checkpoints.is_initial(saved[0]):
        return None
    checkpoints.verify(saved[0])
    model = build_model(recipe, fields_of_run(folder, recipe))
    model.transforms = open_transforms(folder, recipe, model)
    checkpoints.load_weights(saved[0], model)
    return model.to(usable_device(recipe.train.device)).eval()


ATTEMPTS = 3
"""Checkpoints that are tried where a training run removes the one that is being read."""


def fields_of_run(folder: Path, recipe: Recipe) -> Fields:
    """What the values of a run's samples are; empty for an older run whose source does not say it.

    Raises UserError where the file that says it cannot be used.
    """
    return read_fields(folder) or described_fields(recipe) or {}


def open_model(folder: Path) -> tuple[Recipe, JEPA, int]:
    """A run's recipe, its model with the newest whole checkpoint's weights, and that checkpoint's step.

    Needs no lock: where the run trains on meanwhile and drops the checkpoint, the newer one is taken. What is
    wrong with newer checkpoints is logged as a warning.
    """
    recipe = read_run_recipe(folder)
    model = build_model(recipe, fields_of_run(folder, recipe))
    model.transforms = open_transforms(folder, recipe, model)
    for attempt in range(ATTEMPTS):
        checkpoint, damages = checkpoints.latest_checkpoint(folder)
        try:
            checkpoints.load_weights(checkpoint, model)
        except checkpoints.DamagedCheckpoint:
            if checkpoint.exists() or attempt == ATTEMPTS - 1:
                raise
        else:
            break
    for damage in damages:
        log.warning("damaged checkpoint passed over: %s", damage)
    return recipe, model.to(usable_device(recipe.train.device)).eval(), checkpoints.step_of(checkpoint)
