"""The standard probe table of a model: trained, random twin, raw pixels, on one source's splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from jepa_core.data import TransformSettings, eval_loader
from jepa_core.evaluate.features import Progress, Role, model_features, raw_pixels
from jepa_core.evaluate.table import EvalResult, evaluate
from jepa_core.protocols import Probe, Source

TRAINED, TWIN = "trained", "random twin"


def evaluate_model(
    model: Any,
    twin: Any,
    source: Source,
    transforms: TransformSettings,
    probes: Mapping[str, Probe],
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
    images of each, evenly spaced. A source without labels gives a table without probes.
    Raises UserError where a split is missing or empty.
    """
    shape = model.encoder.view_shape()
    maps = [model_features(model, TRAINED, role), model_features(twin, TWIN, role), raw_pixels(shape)]
    samples = [source.split("train"), source.split(split)]
    sizes = [
        len(s) if limit is None else min(limit, len(s)) for s, limit in zip(samples, limits, strict=True)
    ]
    train, held_out = (
        eval_loader(s, transforms, shape, batch_size, workers, limit)
        for s, limit in zip(samples, limits, strict=True)
    )
    classes = samples[0].classes
    return evaluate(
        maps,
        train,
        held_out,
        probes if classes else {},
        classes=len(classes or ()),
        split=split,
        baseline=TWIN,
        images=(sizes[0], sizes[1]),
        device=device,
        dtype=dtype,
        progress=progress,
    )
