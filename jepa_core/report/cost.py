"""What a run cost: device-hours, CPU time, and the arithmetic of its steps.

What is unusual: FLOPs are counted and not estimated, and they are the mean over many draws of masks (see
`evaluate.flops`), so that two runs of one masker have one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepa_core.evaluate.flops import StepCost, expected_cost
from jepa_core.jepa import JEPA
from jepa_core.report.summary import RunSummary
from jepa_core.settings.recipe import Recipe

LARGEST = 400e6
"""Parameters up to which a step is counted: above, one costs more memory than a report should take."""


def device_hours(run: RunSummary) -> tuple[float, str] | None:
    """(hours, `GPU-hours` or `core-hours`) by the wall clock; None where time or machine were not recorded.

    Core-hours count, for each process, the threads that torch computed with and the data workers, at most
    the cores of the machine. Other busy processes lengthen them; `RunSummary.cpu_seconds` does not count
    waiting.
    """
    start: Mapping[str, Any] = run.start
    if run.seconds is None or "environment" not in start:
        return None
    hours = run.seconds / 3600 * start.get("processes", 1)
    if not str(start.get("device", "")).startswith("cpu"):
        return hours, "GPU-hours"
    cpu = start["environment"]["cpu"]
    cores = min(cpu["cores"], cpu["threads"] + run.recipe.data.workers)
    return hours * cores, "core-hours"


def step_cost(model: JEPA, recipe: Recipe) -> StepCost | None:
    """Operations and tokens of a training step an image, the mean over masks; None for a giant model."""
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        return None
    return expected_cost(model, recipe)


def flops_per_image(model: JEPA, recipe: Recipe) -> float | None:
    """Floating-point operations of a training step for each image; None for a giant model."""
    cost = step_cost(model, recipe)
    return cost.flops if cost else None
