"""What is measured during training: loss, schedules, collapse scores, speed, and a small kNN evaluation."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from jepa_core.assembly import build
from jepa_core.data.eval_batches import eval_loader
from jepa_core.evaluate.collapse import feature_std, prediction_retrieval, rankme
from jepa_core.evaluate.features import extract, model_features
from jepa_core.jepa import JEPA, Output
from jepa_core.protocols import Samples
from jepa_core.runs.run import Run
from jepa_core.runtime.machine_load import LoadMeter

ONLINE_IMAGES = 5000, 2000
"""Training and validation images of the small kNN evaluation during training."""


def measure(run: Run, output: Output) -> dict[str, Any]:
    """What is logged at a step: loss and terms, schedules, and collapse scores."""
    values: dict[str, Any] = {"loss": output.loss, **{f"loss/{k}": v for k, v in output.terms.items()}}
    values |= run.training.logged | dict(output.metrics) | collapse_scores(run.model, output)
    values["skipped_steps"] = len(run.training.guard.skipped)
    return {name: v.item() if isinstance(v, torch.Tensor) else v for name, v in values.items()}


@torch.no_grad()
def collapse_scores(model: JEPA, output: Output) -> dict[str, float]:
    """RankMe and spread of the pooled target features, and prediction retrieval, on this batch."""
    step = output.step
    if step.target_tokens is None:
        return {}
    pooled = step.target_tokens.mean().float()
    if not torch.isfinite(pooled).all():
        return {"rankme": math.nan, "feature_std": math.nan}
    scores = {"rankme": rankme(pooled), "feature_std": feature_std(pooled)}
    if not step.plan.empty:
        scores["retrieval"] = prediction_retrieval(step, model.normalise(step.target_tokens).dense())
        scores["retrieval_chance"] = 1 / pooled.shape[0]
    return scores


class SpeedMeter:
    """The speed of training between two logged steps, by the wall clock and in CPU time.

    A busy machine lengthens the wall clock and not the CPU time, which is therefore what a comparison of
    maskers or encoders is about.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.restart()

    def restart(self) -> None:
        """Measures from now on: what was done since the last reading is not training."""
        self._since, self._first_step, self._load = time.monotonic(), self.run.step, LoadMeter()

    def read(self) -> dict[str, float]:
        """`images_per_s` by the wall clock since the start, and where the system tells, of this process with
        its data workers, `cpu_s_per_step`, CPU seconds, and `other_cores`, cores busy with other processes.
        """
        seconds = max(time.monotonic() - self._since, 1e-9)
        steps = self.run.step - self._first_step
        values = {"images_per_s": steps * self.run.recipe.train.batch_size / seconds}
        load = self._load.read()
        if load is not None and steps:
            values |= {"cpu_s_per_step": load.own * seconds / steps, "other_cores": load.others}
        return values


class OnlineKnn:
    """kNN top-1 of the target encoder on a few thousand images of the validation split.

    The splits are opened at the first call and kept.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.splits: list[Samples] = []

    def __call__(self) -> float:
        """The share of validation images whose nearest training images have their class."""
        run, recipe = self.run, self.run.recipe
        if not self.splits:
            self.splits = [run.samples, build("data", recipe.data).split("val")]
        shape = run.model.encoder.view_shape()
        maps = [model_features(run.model, "target")]
        dtype = torch.bfloat16 if run.training.bf16 else None
        features = []
        for samples, limit in zip(self.splits, ONLINE_IMAGES, strict=True):
            loader = eval_loader(samples, recipe.transform, shape, 512, 0, limit)
            features += extract(maps, loader, run.training.device, dtype)
        train, held_out = ((part.values, part.labels) for part in features)
        probe = build("probe", recipe.probes["knn"])
        return float(probe(train, held_out, len(self.splits[1].classes or ()))["top1"])
