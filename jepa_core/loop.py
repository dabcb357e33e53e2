"""The training loop: one for every variant.

    for each optimizer step: load -> forward, backward, optimizer, target update -> log, evaluate, save

It knows no method. What a step is stands in `optim.TrainingStep`, what a model is in `jepa.JEPA`, what
is shown and written in `observers`. Samples and masks come from (seed, rank, step), so a resumed run
goes on exactly where it stood.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from jepa_core import checkpoints, observers
from jepa_core.assembly import build
from jepa_core.data import Loaded, eval_loader, make_loader
from jepa_core.errors import UserError
from jepa_core.evaluate import extract, feature_std, model_features, prediction_retrieval, rankme
from jepa_core.interruption import Stopped, StopSignals
from jepa_core.jepa import JEPA, Output
from jepa_core.journal import record
from jepa_core.protocols import Samples
from jepa_core.recipes import Recipe
from jepa_core.run import RECIPE, Run, begin, make_folder, state_of

ONLINE_IMAGES = 5000, 2000
"""Training and validation images of the small kNN evaluation during training."""


def train(
    recipe: Recipe,
    run_dir: str | Path,
    resume: bool | Literal["auto"] = False,
    watch: Sequence[object] | None = None,
    *,
    overwrite: bool = False,
    allow_change: Sequence[str] = (),
) -> Run:
    """Trains a recipe in a folder and returns the finished run.

    `resume` goes on from the newest whole checkpoint, or from the start of a run that has none yet; "auto"
    does so where the folder holds a run, and starts one where it does not. `allow_change` names settings
    that may then differ from the run's. `watch` replaces core's observers (metrics file, events, terminal,
    TensorBoard, alarm, pictures); plugins listen in any case. `overwrite` removes a run that is in the
    folder, once this one is about to start.
    Raises UserError for a folder that holds a run already, data that cannot be used, a recipe that is not
    the run's, a step that is not finite, a checkpoint that cannot be written; `interruption.Stopped`, with
    the checkpoint saved, when a signal asks the run to stop.
    """
    parts, folder = micro_batches(recipe), Path(run_dir)
    going_on = (folder / RECIPE).is_file() if resume == "auto" else resume
    run = begin(recipe, folder, going_on, overwrite, allow_change)
    batches = load(run, parts)
    if not going_on:
        make_folder(run)
    with (
        said_where(run, OSError),
        observers.watching(run, observers.standard() if watch is None else watch) as hook,
        said_where(run, UserError),
        checkpoints.Writer(run.folder, recipe.train.keep) as writer,
        StopSignals() as signals,
        noted(run),
    ):
        work = Work(run, hook, writer)
        for loaded in batches:
            work.step(loaded)
            if signals.asked is not None and run.step < run.total_steps:
                work.stop(signals.asked)
    return run


@contextmanager
def noted(run: Run) -> Iterator[None]:
    """Leaves word for the observers of why the run ends, in `run.notes["stopped"]`."""
    try:
        yield
        run.notes["stopped"] = "finished"
    except BaseException as error:
        why = f"signal {error}" if isinstance(error, Stopped) else f"error {type(error).__name__}: {error}"
        run.notes["stopped"] = why.partition("\n")[0]
        raise


class Work:
    """A run's steps: each trained, measured where that is due, told to the observers, and saved."""

    def __init__(self, run: Run, hook: Any, writer: checkpoints.Writer) -> None:
        self.run, self.hook, self.writer = run, hook, writer
        self.settings = run.recipe.train
        self.eval_every = self.settings.eval_every if run.samples.classes else 0
        self.knn = OnlineKnn(run)
        self._timed = time.monotonic(), run.step

    def step(self, loaded: Sequence[Loaded]) -> None:
        """One optimizer step on its micro-batches, and whatever is due after it."""
        run = self.run
        output = run.training.accumulate([(part.batch, part.plan) for part in loaded])
        for part in loaded:
            run.inputs.add(part.skipped, part.odd)
        if run.training.objection is not None:
            record(run.folder, "step_skipped", run.step, why=run.training.objection)
        metrics: dict[str, Any] = {}
        if self._due(self.settings.log_every) or self._due(self.eval_every):
            metrics = measure(run, output) | {"images_per_s": self._speed()} | run.inputs.metrics()
            if self.eval_every and self._due(self.eval_every):
                metrics["val_knn"] = self.knn()
        self.hook.jepa_step_ended(run=run, step=run.step, metrics=metrics)
        self.writer.check()
        if self._due(self.settings.checkpoint_every):
            self.save()
        if metrics:
            self._timed = time.monotonic(), run.step

    def save(self) -> None:
        """Hands the run's state to the writer, unless it has this step's."""
        if self.writer.saved != self.run.step:
            self.writer.save(self.run.step, self.run.model.state_dict(), state_of(self.run))

    def stop(self, signal: str) -> None:
        """Saves and raises Stopped."""
        self.save()
        self.writer.wait()
        raise Stopped(signal)

    def _due(self, every: int) -> bool:
        return self.run.step == self.run.total_steps or (every > 0 and self.run.step % every == 0)

    def _speed(self) -> float:
        """Images a second since the last look."""
        started, first = self._timed
        images = (self.run.step - first) * self.settings.batch_size
        return images / max(time.monotonic() - started, 1e-9)


@contextmanager
def said_where(run: Run, kind: type[Exception]) -> Iterator[None]:
    """What ends a run is one line that says at which step, and which checkpoint is there to go on from.

    A disk that is full, or a folder that is gone, shows as an OSError of whoever writes: metrics,
    TensorBoard, pictures.
    """
    try:
        yield
    except kind as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise UserError(f"stopped at step {run.step:,}: {text}; {_last_good(run.folder)}") from error


def _last_good(folder: Path) -> str:
    try:
        checkpoint, _ = checkpoints.newest_good(folder)
    except UserError as error:
        return str(error)
    return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"


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
