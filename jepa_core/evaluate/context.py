"""What an evaluation that sees the model is called with: `EvaluationContext`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from jepa_core.data.eval_batches import EvalFields
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.named_samples import source_fields
from jepa_core.evaluate.batches import eval_batches
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import TRAINED, TWIN, EvaluationTable, MetricScore, make_rows
from jepa_core.jepa import JEPA
from jepa_core.protocols import Role, Samples, Source
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.recipe import Recipe
from jepa_core.types.batch import Batch


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """A run's model, its twin and the data that it is to be judged on.

    Models are in evaluation mode, on `device`, in fp32, and no gradients are taken.
    """

    recipe: Recipe
    """Of the run; its `data` is the source that is judged on."""
    model: Any
    """The run's model, a `jepa_core.JEPA`."""
    twin: Any
    """The same model freshly initialised from the run's seed."""
    source: Source
    split: str = "test"
    """The split that scores are made on; what has to be fitted is fitted on `train`."""
    role: Role = "target"
    """The encoder that is judged, where the evaluation takes features."""
    images: int | None = None
    """So many samples of each split, a seeded draw; None for all. `batches` keeps to it."""
    batch_size: int = 256
    device: torch.device | str = "cpu"
    seed: int = 0
    """Of everything that is drawn, the same for all runs, so that their controls are alike."""
    progress: Progress = field(default_factory=NoProgress)
    transfer: str | None = None
    """Which data the run was trained on, where these are others."""
    splits: dict[str, Samples] = field(default_factory=dict)
    """Those of the source that were asked for."""
    initial: Any = None
    """The run's model as its training began, with weights of elsewhere; None where that is the twin."""
    memory: dict[Any, Any] = field(default_factory=dict)
    """What evaluations leave for those after them, such as features, so that the data are read once."""

    @property
    def models(self) -> Mapping[str, Any]:
        """The run's model and its twin, by the names of their rows."""
        return {TRAINED: self.model, TWIN: self.twin}

    @property
    def transforms(self) -> FieldTransforms | None:
        """The run's, for this source; None of a model whose samples are images or clips alone."""
        own = self.model.transforms if isinstance(self.model, JEPA) else None
        return None if own is None else own.of_source(self.source)

    def samples(self, split: str | None = None) -> Samples:
        """A split of the source, by default the one that scores are made on. Raises UserError without it."""
        name = split or self.split
        if name not in self.splits:
            self.splits[name] = self.source.split(name)
        return self.splits[name]

    def batches(self, split: str | None = None) -> Iterator[Batch]:
        """Batches of a split on the device, in order, the same each time. Raises UserError without any."""
        samples = self.samples(split)
        index = choose_samples(len(samples), None, self.images)
        self.progress.begin(f"batches of the {split or self.split} split", len(index))
        for batch in self._read(samples, index):
            self.progress.advance(batch.batch_size)
            yield batch.to(self.device)

    def _read(self, samples: Samples, index: Tensor) -> Iterable[Batch]:
        """Batches by the run's transforms; of models without any images and clips are cropped alone."""
        if self.transforms is None:
            shape = self.model.encoder.view_shape()
            fields = source_fields(self.source, shape)
            return eval_batches(samples, self.recipe, shape, self.batch_size, index.tolist(), fields)
        data = self.recipe.data
        return EvalFields(samples, self.transforms, index, self.batch_size, data.workers, data.max_corrupt)

    def generator(self, purpose: str = "") -> torch.Generator:
        """A generator on the CPU that gives the same numbers for the same purpose, in every run."""
        digest = hashlib.blake2b(f"{self.seed} {purpose}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest))

    def table(
        self,
        scores: Mapping[str, Mapping[str, MetricScore]],
        *,
        count: int,
        samples: str = "samples",
        task: str | None = None,
        note: str = "",
    ) -> EvaluationTable:
        """A table of scores by row and metric, `trained` first, made on `count` samples of the split.

        Raises ValueError for rows that do not have the same metrics.
        """
        try:
            return EvaluationTable(
                split=self.split,
                count=count,
                samples=samples,
                rows=make_rows(scores),
                task=task,
                note=note,
            )
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
