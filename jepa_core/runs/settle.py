"""What a recipe leaves to the data and the machine, settled once, when a run starts: batch size and steps.

`train.epoch_steps` halves the batch for few images; `train.hours` becomes a number of steps by timing the
first ones. The run's recipe has the numbers, so its schedules are known from the first step on, a resumed run
takes them as they are, and another run of that recipe is the same run.

What is unusual: the steps that are timed are of a model of their own, which is thrown away. The run that
follows is bit for bit the one that the same number in `train.steps` gives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jepa_core.assembly import build_model
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.errors import UserError
from jepa_core.protocols import Samples
from jepa_core.recipes.duration import total_steps_of
from jepa_core.runs.batches import micro_batches, training_batches
from jepa_core.runs.run import Run
from jepa_core.runs.transforms_file import set_view_shapes
from jepa_core.runtime.devices import pick_device
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe
from jepa_core.training.build import make_step

WARM, LEAST, MOST = 3, 3, 60
"""Steps that are not timed, and the least and most that are."""
SECONDS, TRIAL = 10.0, 0.03
"""Of timed steps, after which they are enough: so many seconds, or this share of the hours."""
SHARE = 0.95
"""Of the hours that steps are planned for: the rest is for checkpoints, logging and pictures."""

log = logging.getLogger("jepa.run")


@dataclass(frozen=True)
class Budget:
    """How many steps fit into the hours."""

    hours: float
    seconds_per_step: float
    steps: int

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "hours": self.hours,
            "seconds_per_step": round(self.seconds_per_step, 5),
            "steps": self.steps,
        }


def shrink_batch(recipe: Recipe, images: int) -> Recipe:
    """The recipe with its batch halved, down to 2, until an epoch has `train.epoch_steps` steps.

    Raises UserError for fewer than 2 images.
    """
    train = recipe.train
    if train.epoch_steps is None:
        return recipe
    if images < 2:
        raise UserError(f"the training split has {images} image{'s' * (images != 1)}; a run takes 2 or more")
    size = train.batch_size
    while size > 2 and images // size < train.epoch_steps:
        size //= 2
    if size == train.batch_size:
        return recipe
    log.info("train.batch_size: %d instead of %d, as there are %d images", size, train.batch_size, images)
    return _with_train(
        recipe, batch_size=size, micro_batch=train.micro_batch and min(train.micro_batch, size)
    )


def adopt_settled(asked: Recipe, written: Recipe) -> Recipe:
    """The recipe that a run is resumed with, its batch size and steps those that were settled at its start.

    A value that was not settled from what is asked for stays as asked, and so differs from the run's.
    """
    mine, theirs = asked.train, written.train
    changes: dict[str, Any] = {}
    if mine.hours is not None and mine.hours == theirs.hours and mine.steps is None:
        changes["steps"] = theirs.steps
    if mine.epoch_steps is not None and mine.epoch_steps == theirs.epoch_steps:
        sizes = [mine.batch_size >> halvings for halvings in range(mine.batch_size.bit_length())]
        if theirs.batch_size in sizes:
            changes["batch_size"] = theirs.batch_size
            if mine.micro_batch is not None:
                changes["micro_batch"] = min(mine.micro_batch, theirs.batch_size)
    return _with_train(asked, **changes) if changes else asked


def spend_hours(
    recipe: Recipe,
    samples: Samples,
    transforms: FieldTransforms,
    ranks: Ranks,
    folder: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Recipe, Budget | None]:
    """The recipe with `train.steps` set to what fits into `train.hours`, and how that was reckoned.

    None, and the recipe as it is, where it gives a number of steps or no hours. Raises UserError as training
    does.
    """
    train = recipe.train
    if train.hours is None or train.steps is not None:
        return recipe, None
    began = clock()
    seconds = ranks.broadcast(_time_steps(recipe, samples, transforms, ranks, folder, clock))
    left = train.hours * 3600 * SHARE - ranks.broadcast(clock() - began)
    steps = max(1, int(left / seconds))
    if train.epochs is not None:
        steps = min(steps, total_steps_of(recipe, len(samples)))
    budget = Budget(train.hours, seconds, steps)
    if ranks.is_main:
        log.info(
            "train.hours %g: %.3g s a step, so %s steps of %d images",
            train.hours, seconds, f"{steps:,}", train.batch_size,
        )  # fmt: skip
    return _with_train(recipe, steps=steps), budget


def _time_steps(
    recipe: Recipe,
    samples: Samples,
    transforms: FieldTransforms,
    ranks: Ranks,
    folder: Path,
    clock: Callable[[], float],
) -> float:
    """Seconds of a step, reading and transforming included: the mean of some after the first ones."""
    total = WARM + MOST
    model = build_model(recipe, total_steps=total).to(pick_device(recipe.train.device, ranks.local_rank))
    set_view_shapes(transforms, model)
    run = Run(folder, recipe, make_step(model, recipe, total, 0, ranks), samples, transforms)
    enough = min(SECONDS, TRIAL * 3600 * (recipe.train.hours or 1))
    began, steps = clock(), 0
    for number, parts in enumerate(training_batches(run, micro_batches(recipe, ranks))):
        output = run.training.accumulate([(part.batch, part.plan) for part in parts])
        output.loss.item()  # waits for the device
        if number + 1 == WARM:
            began = clock()
        steps = number + 1 - WARM
        if ranks.broadcast(steps >= LEAST and clock() - began > enough):
            break
    return (clock() - began) / steps


def _with_train(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, train=recipe.train.model_copy(update=changes))
