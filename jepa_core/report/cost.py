"""What a run cost: device-hours, and the arithmetic of its steps.

What is unusual: FLOPs are counted, not estimated: one real step (forward and backward, real masks) runs
under torch's counter. It sees matrix products, convolutions and attention, a multiply-add as two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from jepa_core.assembly import random_batch, sample_masks
from jepa_core.jepa import JEPA
from jepa_core.report.summary import RunSummary
from jepa_core.settings.recipe import Recipe

COUNTED = 4
"""Images of the step that is counted."""
LARGEST = 400e6
"""Parameters up to which a step is counted: above, one costs more memory than a report should take."""


def device_hours(story: RunSummary) -> tuple[float, str] | None:
    """(hours, `GPU-hours` or `core-hours`), or None where time or machine were not recorded.

    Core-hours count, of each process, the threads torch computed with and the data workers, at most the
    cores there were.
    """
    start: Mapping[str, Any] = story.start
    if story.seconds is None or "environment" not in start:
        return None
    hours = story.seconds / 3600 * start.get("processes", 1)
    if not str(start.get("device", "")).startswith("cpu"):
        return hours, "GPU-hours"
    cpu = start["environment"]["cpu"]
    cores = min(cpu["cores"], cpu["threads"] + story.recipe.data.workers)
    return hours * cores, "core-hours"


def flops_per_image(model: JEPA, recipe: Recipe) -> float | None:
    """Floating-point operations of one training step for each of its images; None for a giant model.

    On the CPU in fp32, on random images with the masks of the run's first step.
    """
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        return None
    device = next(model.parameters()).device
    images = random_batch(recipe, model, COUNTED).to(device)
    plan = sample_masks(model, COUNTED, recipe.seed).to(device)
    with FlopCounterMode(display=False) as counter:
        model(images, plan).loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / COUNTED
