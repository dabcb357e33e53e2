"""The standard probe table of a model: trained, random twin, raw pixels, on one source's splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jepa_core.data.eval_batches import eval_loader
from jepa_core.evaluate.features import model_features, raw_pixels
from jepa_core.evaluate.table import EvalResult, evaluate
from jepa_core.protocols import Probe, Role, Samples, Source, Tasks, TokenProbe
from jepa_core.runtime.progress import Progress
from jepa_core.settings.sections import TransformSettings

TRAINED, TWIN = "trained", "random twin"


def evaluate_model(
    model: Any,
    twin: Any,
    source: Source,
    transforms: TransformSettings,
    probes: Mapping[str, Probe | TokenProbe],
    *,
    split: str = "test",
    role: Role = "target",
    batch_size: int = 256,
    workers: int = 0,
    limits: tuple[int | None, int | None] = (None, None),
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Probe table of `model` (a `jepa_core.JEPA`) beside `twin`, the same model freshly initialised.

    Probes are fitted on the source's `train` split and scored on `split`; `limits` takes only so many
    samples of each, evenly spaced. A forward pass takes `batch_size` images, or clips of as many frames. A
    source without labels gives a table without probes; one with `Tasks` a table for each, with its own
    controls as further rows.
    Raises UserError where a split is missing or empty.
    """
    tokens = any(isinstance(probe, TokenProbe) for probe in probes.values())
    shape = model.encoder.view_shape()
    maps = [model_features(model, TRAINED, role, tokens), model_features(twin, TWIN, role, tokens)]
    maps.append(raw_pixels(shape))
    if isinstance(source, Tasks):
        maps += source.controls(model, role, tokens)
    at_once = max(1, batch_size // math.prod(shape[1:-2]))
    tables = []
    for task, samples in _labelled(source, split, shape).items():
        train, held_out = (
            eval_loader(s, transforms, shape, at_once, workers, limit)
            for s, limit in zip(samples, limits, strict=True)
        )
        classes = samples[0].classes
        made = evaluate(
            maps,
            train,
            held_out,
            probes if classes else {},
            classes=len(classes or ()),
            split=split,
            baseline=TWIN,
            images=(train.images, held_out.images),
            device=device,
            dtype=dtype,
            progress=progress,
        )
        tables.append(made.model_copy(update={"task": task}))
    return tables[0].model_copy(update={"others": tuple(tables[1:])})


def _labelled(source: Source, split: str, shape: Sequence[int]) -> Mapping[str | None, Sequence[Samples]]:
    """(training, held-out) samples by task; by None where there is one set of labels, or none."""
    if isinstance(source, Tasks):
        return {
            task: [source.labelled(task, part, shape) for part in ("train", split)] for task in source.tasks()
        }
    return {None: [source.split("train"), source.split(split)]}
