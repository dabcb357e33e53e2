"""The micro-batches of a run's steps: how many a step has, and which of them this process computes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from jepa_core.data.loader import make_loader
from jepa_core.data.step_dataset import StepBatch
from jepa_core.errors import UserError
from jepa_core.runs.run import Run
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe


def micro_batches(recipe: Recipe, ranks: Ranks) -> int:
    """Forward passes of one optimizer step, those of all processes; each does as many as the others.

    Raises UserError where the sizes do not divide.
    """
    size = recipe.train.batch_size
    part = recipe.train.micro_batch or max(1, size // ranks.world_size)
    if size % part:
        raise UserError(f"train.micro_batch {part} does not divide train.batch_size {size}")
    if (size // part) % ranks.world_size:
        raise UserError(
            f"{size // part} micro-batches of {part} (train.batch_size {size}) cannot be shared evenly by "
            f"{ranks.world_size} processes; change train.micro_batch or their number"
        )
    return size // part


def training_batches(run: Run, parts: int) -> Iterator[list[StepBatch]]:
    """This process's micro-batches of each step still to do; micro-batch m is drawn as rank m of `parts`."""
    recipe, model, ranks = run.recipe, run.model, run.training.ranks
    count = parts // ranks.world_size
    flat = make_loader(
        run.samples,
        recipe.transform,
        model.encoder.view_shape(),
        recipe.train.batch_size // parts,
        steps=range(run.step, run.total_steps),
        seed=recipe.seed,
        ranks=range(ranks.rank * count, (ranks.rank + 1) * count),
        world=parts,
        workers=recipe.data.workers,
        masker=model.masker,
        grid=model.grid(),
        view_masks=model.maskers,
        total_steps=run.total_steps,
        max_corrupt=recipe.data.max_corrupt,
        pin_memory=run.training.device.type == "cuda",
        fields=run.transforms,
    )
    return _group(iter(flat), count)


def draw_first(batches: Iterator[list[StepBatch]]) -> Iterator[list[StepBatch]]:
    """All batches, the first drawn already: unusable data raise before anything is written."""
    first = list(islice(batches, 1))
    return chain(first, batches)


def _group(flat: Iterator[StepBatch], parts: int) -> Iterator[list[StepBatch]]:
    while group := list(islice(flat, parts)):
        yield group
