"""The standard probe table of models: trained, random twin, raw pixels, on one source's splits.

What is unusual: the models of several runs are judged together. The data are read once for all of them, and
what does not depend on the trained weights (twins that are equal, the pixels) is computed once, or taken from
the cache.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.evaluate.batches import samples_word
from jepa_core.evaluate.features import Features, model_features, raw_features
from jepa_core.evaluate.known_values import known_features
from jepa_core.evaluate.predictions import Predictions
from jepa_core.evaluate.retrieval_of_predictions import IMAGES, retrieval_scores
from jepa_core.evaluate.row_cache import CachedRow, Key, data_hash, weights_key
from jepa_core.evaluate.samples import SplitLoader, choose_samples
from jepa_core.evaluate.score_tables import TRAINED, TWIN
from jepa_core.evaluate.scoring import Probes, ScoredRow, make_table, score_row, split_features
from jepa_core.evaluate.setup import Evaluation, ModelPair, Setup, samples_by_task
from jepa_core.evaluate.table import EvalResult
from jepa_core.jepa import JEPA
from jepa_core.protocols import FeatureMap, Role, Samples, Source, Tasks, TokenProbe
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.roles import encoder_name
from jepa_core.settings.sections import TransformSettings

INITIAL = "initial weights"

log = logging.getLogger("jepa.evaluate")


def evaluate_model(
    model: Any,
    twin: Any,
    source: Source,
    transforms: TransformSettings,
    probes: Probes,
    *,
    split: str = "test",
    role: Role = "target",
    batch_size: int = 256,
    workers: int = 0,
    limits: tuple[int | None, int | None] = (None, None),
    images: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Probe table of `model` (a `jepa_core.JEPA`) beside `twin`, the same model freshly initialised.

    Probes are fitted on the source's `train` split and scored on `split`; `limits` takes only so many
    samples of each, evenly spaced, `images` so many in a seeded draw. A source without labels gives a table
    without probes; one with `Tasks` a table for each, with its own controls as further rows.
    Raises UserError where a split is missing or empty, or a label is no class.
    """
    setup = Setup(
        source,
        transforms,
        probes,
        split=split,
        role=role,
        batch_size=batch_size,
        workers=workers,
        limits=limits,
        images=images,
        device=device,
        dtype=dtype,
        progress=progress or NoProgress(),
    )
    return evaluate_models([ModelPair(model, twin)], setup)[0].result


def evaluate_models(models: Sequence[ModelPair], setup: Setup) -> list[Evaluation]:
    """The evaluation of each model, all of one view shape; each split is read once for all of them.

    Raises UserError as `evaluate_model` does.
    """
    model, view = models[0].model, encoder_name(setup.role)
    shape = (model.encoder_of(setup.role) if view else model.encoder).view_shape()
    by_task = [
        TaskEvaluation(models, setup, shape, task, *samples).run()
        for task, samples in samples_by_task(setup, shape).items()
    ]
    evaluations = []
    for of_model in zip(*by_task, strict=True):
        tables = [table for table, _ in of_model]
        result = tables[0].model_copy(update={"others": tuple(tables[1:])})
        evaluations.append(Evaluation(result, [predictions for _, predictions in of_model]))
    return evaluations


class TaskEvaluation:
    """The evaluation of several models on one task: one set of labels."""

    def __init__(
        self,
        models: Sequence[ModelPair],
        setup: Setup,
        shape: Sequence[int],
        task: str | None,
        train: Samples,
        held_out: Samples,
    ) -> None:
        self.models, self.setup, self.shape, self.task = models, setup, shape, task
        self.classes = train.classes or ()
        self.probes: Probes = setup.probes if train.classes else {}
        self.tokens = any(isinstance(probe, TokenProbe) for probe in self.probes.values())
        self.train = self._loader(train, setup.limits[0])
        self.held_out = self.train if setup.split == "train" else self._loader(held_out, setup.limits[1])
        self.pixels = raw_features(models[0].model, setup.role, shape)
        self.features: dict[int, tuple[Features, Features]] = {}
        """(training, held-out) features of a map, by its identity."""
        self._views: Tensor | None = None

    def _loader(self, samples: Samples, limit: int | None, drawn: bool = True) -> SplitLoader:
        setup = self.setup
        at_once = max(1, setup.batch_size // math.prod(self.shape[1:-2]))
        index = choose_samples(len(samples), limit, setup.images if drawn else None)
        return SplitLoader(
            samples,
            setup.transforms,
            self.shape,
            at_once,
            setup.workers,
            index,
            setup.max_corrupt,
            encoder_name(setup.role),
            self._fields(),
        )

    def _fields(self) -> FieldTransforms | None:
        """The run's transforms, for this source; asked for where another view than the first is read."""
        transforms = self.models[0].model.transforms if encoder_name(self.setup.role) else None
        return None if transforms is None else transforms.of_source(self.setup.source)

    def run(self) -> list[tuple[EvalResult, Predictions]]:
        """The table and the guesses of each model."""
        role, tokens, source = self.setup.role, self.tokens, self.setup.source
        trained = [model_features(pair.model, TRAINED, role, tokens) for pair in self.models]
        initial = [
            [model_features(pair.initial, INITIAL, role, tokens)] if pair.initial is not None else []
            for pair in self.models
        ]
        controls = [
            list(source.controls(pair.model, role, tokens)) if isinstance(source, Tasks) else []
            for pair in self.models
        ]
        keys = [self._twin_key(pair) for pair in self.models]
        twins = {
            key: model_features(pair.twin, TWIN, role, tokens)
            for key, pair in zip(keys, self.models, strict=True)
        }
        cached = {key: self._read_row(key) for key in (*twins, self._pixels_key())}
        missing = [twin for key, twin in twins.items() if cached[key] is None]
        own = chain.from_iterable((*initial, *controls))
        self._extract([*trained, self.pixels, *own, *missing])
        known = dict(self._known_features()) if self.probes else {}
        self.features |= {id(feature_map): features for feature_map, features in known.items()}
        controls = [[*of_views, *known] for of_views in controls]
        data = data_hash(*self.features[id(self.pixels)])
        trained_rows = [self._score(feature_map) for feature_map in trained]
        shared = {
            key: self._shared_row(key, feature_map, cached[key], data)
            for key, feature_map in {**twins, self._pixels_key(): self.pixels}.items()
        }
        pixels = shared[self._pixels_key()]
        return [
            self._table([row, *map(self._score, before), shared[key], pixels, *map(self._score, after)])
            for row, before, key, after in zip(trained_rows, initial, keys, controls, strict=True)
        ]

    def _known_features(self) -> Iterator[tuple[FeatureMap, tuple[Features, Features]]]:
        """Rows that no image made; the samples have been read."""
        judge = self.setup.split, self.held_out
        return known_features(self.setup.source, self.task, ("train", self.train), judge)

    def _extract(self, maps: Sequence[FeatureMap]) -> None:
        setup = self.setup
        sizes = (self.train.images, self.held_out.images)
        train, held_out = split_features(
            maps,
            self.train,
            self.held_out,
            self.probes,
            setup.split,
            sizes,
            setup.device,
            setup.dtype,
            setup.progress,
        )
        for feature_map, fit, judge in zip(maps, train, held_out, strict=True):
            self.features[id(feature_map)] = fit, judge

    def _score(self, feature_map: FeatureMap) -> ScoredRow:
        self.setup.progress.begin(f"probes on {feature_map.name}", None)
        fit, judge = self.features[id(feature_map)]
        scored = score_row(feature_map, fit, judge, self.probes, len(self.classes), self.setup.device)
        if self.classes or not isinstance(feature_map.module, JEPA):
            return scored
        predictions = retrieval_scores(feature_map.module, self._few_views(), self.setup.device)
        return replace(scored, row=scored.row.model_copy(update={"predictions": predictions}))

    def _few_views(self) -> Tensor:
        """Some held-out views [n, ...], evenly spaced, to be predicted; read once."""
        if self._views is None:
            few = self._loader(self.held_out.samples, IMAGES, drawn=False)
            self._views = torch.cat([views for views, _ in few])
        return self._views

    def _shared_row(self, key: str, feature_map: FeatureMap, entry: CachedRow | None, data: str) -> ScoredRow:
        """A row that other runs have as well: that of the cache if it was made from these data."""
        if entry is not None and entry.data == data:
            log.info(
                "evaluation: the row %r is taken from the cache (--no-cache computes it anew)",
                feature_map.name,
            )
            return entry.scored
        if id(feature_map) not in self.features:
            self._extract([feature_map])
        row = self._score(feature_map)
        if self.setup.cache is not None:
            self.setup.cache.write(self._key(key), data, row)
        return row

    def _read_row(self, key: str) -> CachedRow | None:
        return None if self.setup.cache is None else self.setup.cache.read(self._key(key))

    def _key(self, row: str) -> Key:
        sizes = {part: (loader.images, loader.whole) for part, loader in self._loaders().items()}
        setup = self.setup
        return {
            **setup.cache_key,
            "row": row,
            "task": self.task,
            "classes": len(self.classes),
            "view": list(self.shape),
            "sizes": sizes,
            "split": setup.split,
            "drawn": [setup.images, *setup.limits],
            "tokens": self.tokens,
            **({} if self.classes else {"predictions": IMAGES}),
        }

    def _loaders(self) -> dict[str, SplitLoader]:
        return {"train": self.train, "held_out": self.held_out}

    def _pixels_key(self) -> str:
        return f"raw pixels, {self.pixels.description}"

    def _twin_key(self, pair: ModelPair) -> str:
        """Names the features of a freshly initialised model; equal for runs whose twins are equal."""
        if self.setup.cache is None and len(self.models) == 1:
            return TWIN
        twin, on_target = pair.twin, self.setup.role == "target"
        encoder = twin.encoder
        if encoder_name(self.setup.role):
            encoder = twin.encoder_of(self.setup.role)
        elif on_target and twin.target_encoder is not None:
            encoder = twin.target_encoder
        facts = weights_key(encoder)
        how = type(twin).features
        return json.dumps([self.setup.role, f"{how.__module__}.{how.__qualname__}", facts, pair.settings])

    def _table(self, rows: Sequence[ScoredRow]) -> tuple[EvalResult, Predictions]:
        setup = self.setup
        fit, judge = self.features[id(self.pixels)]
        table = make_table(
            rows, fit, judge, self.probes, classes=len(self.classes), split=setup.split, baseline=TWIN
        )
        is_limited = any(loader.images < loader.whole for loader in self._loaders().values())
        facts = {
            "task": self.task,
            "role": setup.role,
            "samples": samples_word(self.shape),
            "of_images": (self.train.whole, self.held_out.whole) if is_limited and setup.images else None,
            "data": f"{setup.source_name}: {self.held_out.samples.note}",
            "data_hash": self.held_out.fingerprint(),
            "train_hash": self.train.fingerprint() if self.probes else None,
            "probe_settings": {
                name: value for name, value in setup.probe_settings.items() if name in self.probes
            },
        }
        guesses = {(row.row.name, probe): values for row in rows for probe, values in row.guesses.items()}
        predictions = Predictions(
            self.held_out.names(), judge.labels, guesses, str(facts["data_hash"]), self.task
        )
        return table.model_copy(update=facts), predictions
