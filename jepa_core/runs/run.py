"""A run in training: its folder, recipe, training step and samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.jepa import JEPA
from jepa_core.protocols import Samples
from jepa_core.runs.input_log import InputCounts
from jepa_core.runs.metrics_file import METRICS, read_metrics
from jepa_core.settings.recipe import Recipe
from jepa_core.training.step import TrainingStep


@dataclass
class Run:
    """One training run. Observers read it; only the loop writes it."""

    folder: Path
    recipe: Recipe
    training: TrainingStep
    samples: Samples
    """The training split."""
    transforms: FieldTransforms
    """Of the named values of its samples."""
    data_hash: str = ""
    """By which a resumed run knows that split again (`runs.data_hash`)."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Remarks of observers, such as `alarms`, for observers that come later and for the end of the run."""

    inputs: InputCounts = field(init=False)
    """Counts of corrupt and unusual samples."""

    def __post_init__(self) -> None:
        self.inputs = InputCounts(self.folder)

    @property
    def model(self) -> JEPA:
        """The model in training."""
        return self.training.model

    @property
    def step(self) -> int:
        """Optimizer steps done so far."""
        return self.training.done

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.training.total_steps

    def metrics(self) -> list[dict[str, Any]]:
        """What has been logged, a dictionary a line, oldest first."""
        return read_metrics(self.folder / METRICS)
