"""What a step of an arm costs: seconds, measured in the training loop, and operations, counted.

The seconds are those between the ends of steps of a real run (images loaded, masks drawn, everything), in a
temporary folder, on the process and threads that will train. They are measured once a study and kept with
it, since the steps of a budget, and with them the recipes, follow from them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from jepa_core.errors import UserError
from jepa_core.hookspecs import hookimpl
from jepa_core.runs.run import Run
from jepa_core.settings.recipe import Recipe
from jepa_core.study.ledger import Ledger
from jepa_core.study.plan import Arm, Study, arm_key, digest, identity_of

STEPS, FIRST = 60, 10
"""Steps that are measured, and those at the start that are left out."""
SECONDS = 20.0
"""Time after which fewer steps must do."""
LARGEST = 400e6
"""Parameters up to which operations are counted."""


class EnoughMeasured(Exception):
    """Ends a run that was only started to be measured."""


class StepClock:
    """An observer that notes when steps end, and ends the run once there are enough."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        self.ends.append(time.perf_counter())
        if len(self.ends) >= 3 and self.ends[-1] - self.ends[0] > SECONDS:
            raise EnoughMeasured

    def seconds(self) -> float:
        """The median of the steps' times, the first ones left out where there are enough."""
        times = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
        return median(times[min(FIRST, len(times) // 2) :])


def step_seconds(recipe: Recipe) -> float:
    """Seconds of a training step, on this process's device and threads. Raises UserError as training does."""
    from jepa_core.trainer import train

    changes = {"steps": STEPS, "eval_every": 0, "checkpoint_every": 0, "log_every": STEPS + 1}
    optimizer = recipe.optimizer.model_copy(update={"warmup_steps": 0})
    short = replace(recipe, train=recipe.train.model_copy(update=changes), optimizer=optimizer)
    clock = StepClock()
    with tempfile.TemporaryDirectory(prefix="jepa-study-") as folder, suppress(EnoughMeasured):
        train(short, Path(folder) / "run", watch=[clock])
    return clock.seconds()


def flops_per_image(recipe: Recipe, ledger: Ledger | None = None) -> float | None:
    """Operations of a training step for each image, the mean over masks; None for a giant model."""
    recipe = replace(recipe, seed=0)
    key = f"flops-{identity_of(recipe)}"
    known = ledger.shared_value(key) if ledger else None
    if known is None:
        from jepa_core.assembly import build_model
        from jepa_core.evaluate.flops import expected_cost

        model = build_model(recipe)
        giant = sum(parameter.numel() for parameter in model.parameters()) > LARGEST
        known = {"flops": None if giant else expected_cost(model, recipe).flops}
        known = ledger.share(key, known) if ledger else known
    flops: float | None = known["flops"]
    return flops


def measured_seconds(
    study: Study, arm: Arm, dataset: str | None, ledger: Ledger, measure: bool = True
) -> float:
    """Seconds of an arm's step: as measured when the study first asked, or measured now.

    Raises UserError where it was not measured yet and `measure` is false.
    """
    recipe = replace(replace(study, steps={}).recipe_of(arm, dataset), seed=0)
    table = {"identity": identity_of(replace(recipe, train=recipe.train.model_copy(update={"steps": 1})))}
    key = f"step-{digest(table)}"
    known = ledger.shared_value(key)
    if known is None and not measure:
        raise UserError("the steps of the budget are not measured yet; `jepa study run` or `plan` does that")
    if known is None:
        known = ledger.share(key, {"arm": arm_key(arm, dataset), "seconds": step_seconds(recipe)})
    seconds: float = known["seconds"]
    return seconds


def steps_of_recipe(recipe: Recipe) -> int:
    """Optimizer steps of a recipe. Raises UserError where it gives epochs of unknown size."""
    from jepa_core.recipes.duration import total_steps_of

    try:
        return total_steps_of(recipe)
    except UserError:
        raise UserError(
            "a budget needs train.steps (or train.epoch_images); the recipe has epochs alone"
        ) from None
