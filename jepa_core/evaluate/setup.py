"""What an evaluation is given and what it gives: the records that model.py and run.py share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from jepa_core.evaluate.predictions import Predictions
from jepa_core.evaluate.row_cache import Key, RowCache
from jepa_core.evaluate.scoring import Probes
from jepa_core.evaluate.table import EvalResult
from jepa_core.protocols import Role, Samples, Source, Tasks
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.sections import TransformSettings


@dataclass(frozen=True)
class Setup:
    """What is evaluated on, and how."""

    source: Source
    transforms: TransformSettings
    probes: Probes
    split: str = "test"
    role: Role = "target"
    batch_size: int = 256
    """Images of a forward pass, or clips of as many frames."""
    workers: int = 0
    limits: tuple[int | None, int | None] = (None, None)
    """So many training and held-out samples, evenly spaced."""
    images: int | None = None
    """So many samples of each split, a seeded draw."""
    max_corrupt: float = 0.1
    device: torch.device | str = "cpu"
    dtype: torch.dtype | None = None
    progress: Progress = field(default_factory=NoProgress)
    source_name: str = "data"
    """Of the source, for errors."""
    probe_settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    cache: RowCache | None = None
    cache_key: Key = field(default_factory=dict)
    """What rows depend on besides the encoder: data, transform, probes, precision, versions."""
    splits: dict[str, Samples] = field(default_factory=dict)
    """Those that were asked for, so that each is looked for once."""

    def samples(self, split: str) -> Samples:
        """A split of the source. Raises UserError where it is missing."""
        if split not in self.splits:
            self.splits[split] = self.source.split(split)
        return self.splits[split]


@dataclass(frozen=True)
class ModelPair:
    """A model to be judged, a `jepa_core.JEPA`, and the same model freshly initialised."""

    model: Any
    twin: Any
    initial: Any = None
    """The model as its training began, with weights of elsewhere; None where it is the twin."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What features depend on besides the weights; plain values."""


@dataclass(frozen=True)
class Evaluation:
    """A model's table and the guesses of its probes, a set for each task."""

    result: EvalResult
    predictions: Sequence[Predictions]


def samples_by_task(setup: Setup, shape: Sequence[int]) -> Mapping[str | None, tuple[Samples, Samples]]:
    """(training, held-out) samples by task; by None where there is one set of labels, or none."""
    source, split = setup.source, setup.split
    if isinstance(source, Tasks):
        return {
            task: (source.labelled_samples(task, "train", shape), source.labelled_samples(task, split, shape))
            for task in source.tasks()
        }
    return {None: (setup.samples("train"), setup.samples(split))}
