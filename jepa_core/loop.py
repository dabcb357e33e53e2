"""The training loop: one for every variant.

    for each optimizer step: load -> forward, backward, optimizer, target update -> log, evaluate, save

It knows no method. What a step is stands in `optim.TrainingStep`, what a model is in `jepa.JEPA`, what
is shown and written in `observers`. Samples and masks come from (seed, rank, step), so a resumed run
goes on exactly where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from jepa_core import checkpoints, observers
from jepa_core.assembly import build
from jepa_core.data import Loaded, eval_loader, make_loader
from jepa_core.errors import UserError
from jepa_core.evaluate import extract, feature_std, model_features, prediction_retrieval, rankme
from jepa_core.jepa import JEPA, Output
from jepa_core.protocols import Samples
from jepa_core.recipes import Recipe
from jepa_core.run import Run, begin, make_folder

ONLINE_IMAGES = 5000, 2000
"""Training and validation images of the small kNN evaluation during training."""


def train(
    recipe: Recipe,
    run_dir: str | Path,
    resume: bool = False,
    watch: Sequence[object] | None = None,
    *,
    overwrite: bool = False,
) -> Run:
    """Trains a recipe in a folder and returns the finished run.

    `resume` goes on from the newest checkpoint. `watch` replaces core's observers (metrics file,
    terminal, TensorBoard, alarm, pictures); plugins listen in any case. `overwrite` removes a run that is
    in the folder, once this one is about to start. Raises UserError for a folder that holds a run already,
    data that cannot be used, or a recipe that is not the run's.
    """
    parts = micro_batches(recipe)
    run = begin(recipe, Path(run_dir), resume, overwrite)
    batches = load(run, parts)
    if not resume:
        make_folder(run)
    with observers.watching(run, observers.standard() if watch is None else watch) as hook:
        started, first, skipped, knn = time.monotonic(), run.step, 0, OnlineKnn(run)
        eval_every = recipe.train.eval_every if run.samples.classes else 0
        for loaded in batches:
            output = run.training.accumulate([(part.batch, part.plan) for part in loaded])
            skipped += sum(len(part.skipped) for part in loaded)
            metrics: dict[str, Any] = {}
            if _due(run, recipe.train.log_every) or _due(run, eval_every):
                speed = (run.step - first) * recipe.train.batch_size / max(time.monotonic() - started, 1e-9)
                metrics = measure(run, output) | {"images_per_s": speed, "corrupt_images": skipped}
                if eval_every and _due(run, eval_every):
                    metrics["val_knn"] = knn()
            hook.jepa_step_ended(run=run, step=run.step, metrics=metrics)
            if _due(run, recipe.train.checkpoint_every):
                checkpoints.save(run.folder, run.training, recipe.train.keep)
            if metrics:
                started, first = time.monotonic(), run.step
    return run


def micro_batches(recipe: Recipe) -> int:
    """Forward passes of one optimizer step. Raises UserError where the sizes do not divide."""
    size, part = recipe.train.batch_size, recipe.train.micro_batch or recipe.train.batch_size
    if size % part:
        raise UserError(f"train.micro_batch {part} does not divide train.batch_size {size}")
    return size // part


def load(run: Run, parts: int) -> Iterator[list[Loaded]]:
    """The micro-batches of each step that is still to do; micro-batch m is drawn as rank m of `parts`."""
    recipe, model = run.recipe, run.model
    shape = model.encoder.view_shape()
    flat = make_loader(
        run.samples,
        recipe.transform,
        shape,
        recipe.train.batch_size // parts,
        steps=range(run.step, run.total_steps),
        seed=recipe.seed,
        ranks=range(parts),
        world=parts,
        workers=recipe.data.workers,
        masker=model.masker,
        grid=model.grid(),
        total_steps=run.total_steps,
        max_corrupt=recipe.data.max_corrupt,
        pin_memory=run.training.device.type == "cuda",
    )
    return _grouped(iter(flat), parts)


def _grouped(flat: Iterator[Loaded], parts: int) -> Iterator[list[Loaded]]:
    while group := list(islice(flat, parts)):
        yield group


def _due(run: Run, every: int) -> bool:
    return run.step == run.total_steps or (every > 0 and run.step % every == 0)


def measure(run: Run, output: Output) -> dict[str, Any]:
    """What is logged at a step: loss and terms, schedules, and collapse scores."""
    values: dict[str, Any] = {"loss": output.loss, **{f"loss/{k}": v for k, v in output.terms.items()}}
    values |= run.training.logged | dict(output.metrics) | collapse_scores(run.model, output)
    return {name: v.item() if isinstance(v, torch.Tensor) else v for name, v in values.items()}


@torch.no_grad()
def collapse_scores(model: JEPA, output: Output) -> dict[str, float]:
    """RankMe and spread of the pooled target features, and prediction retrieval, on this batch."""
    step = output.step
    if step.target_tokens is None:
        return {}
    pooled = step.target_tokens.mean().float()
    scores = {"rankme": rankme(pooled), "feature_std": feature_std(pooled)}
    if not step.plan.empty:
        scores["retrieval"] = prediction_retrieval(step, model.normalise(step.target_tokens).dense())
        scores["retrieval_chance"] = 1 / pooled.shape[0]
    return scores


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
        found = []
        for samples, limit in zip(self.splits, ONLINE_IMAGES, strict=True):
            loader = eval_loader(samples, recipe.transform, shape, 512, 0, limit)
            found += extract(maps, loader, run.training.device, dtype)
        train, held_out = ((f.values, f.labels) for f in found)
        probe = build("probe", recipe.probes["knn"])
        return float(probe(train, held_out, len(self.splits[1].classes or ()))["top1"])
