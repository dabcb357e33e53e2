"""The training step that a recipe asks for: plain, or recorded in a CUDA graph."""

from __future__ import annotations

from jepa_core.jepa import JEPA
from jepa_core.recipes.duration import steps_of
from jepa_core.runtime.distributed import Ranks
from jepa_core.runtime.malloc import keep_freed_blocks
from jepa_core.settings.recipe import Recipe
from jepa_core.training.step import TrainingStep


def training_step(model: JEPA, recipe: Recipe, images: int | None = None) -> TrainingStep:
    """The recipe's optimizer and schedules for a model; call the result with (batch, plan).

    `images`, the size of the training split, is needed only where the recipe counts in epochs and does
    not say how many images those have.
    """
    return make_step(model, recipe, *steps_of(recipe, images))


def make_step(
    model: JEPA, recipe: Recipe, total_steps: int, warmup_steps: int, ranks: Ranks | None = None
) -> TrainingStep:
    """The step as the recipe wants it: recorded in a CUDA graph, or not.

    Has the allocator keep freed memory, without which each step on a CPU faults the same pages in again.
    """
    keep_freed_blocks()
    if recipe.train.cuda_graph:
        from jepa_core.training.cuda_graph_step import CudaGraphStep

        return CudaGraphStep(model, recipe, total_steps, warmup_steps, ranks)
    return TrainingStep(model, recipe, total_steps, warmup_steps, ranks)
