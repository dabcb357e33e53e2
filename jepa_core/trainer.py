"""The training loop: one for every variant.

    for each optimizer step: load -> forward, backward, optimizer, target update -> log, evaluate, save

It knows no method. What a step is stands in `optim.TrainingStep`, what a model is in `jepa.JEPA`, what
is shown and written in `observers`. Samples and masks come from (seed, rank, step), so a resumed run
goes on exactly where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from jepa_core import observers
from jepa_core.data.images import Skipped
from jepa_core.data.loader import make_loader
from jepa_core.data.step_dataset import StepBatch
from jepa_core.data.workers import WorkerDied
from jepa_core.errors import UserError
from jepa_core.evaluate.online import OnlineKnn, measure
from jepa_core.jepa import Output
from jepa_core.runs import checkpoints
from jepa_core.runs.events_file import record
from jepa_core.runs.folder import RECIPE
from jepa_core.runs.run import Run
from jepa_core.runs.start import make_folder, start_or_resume, state_of
from jepa_core.runtime.distributed import Ranks, init_distributed
from jepa_core.runtime.stop_signals import Stopped, StopSignals
from jepa_core.settings.recipe import Recipe


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
    with init_distributed(recipe.train.device) as ranks:
        parts, folder = micro_batches(recipe, ranks), ranks.broadcast(Path(run_dir))
        going_on = (folder / RECIPE).is_file() if resume == "auto" else resume
        run = start_or_resume(recipe, folder, going_on, overwrite, allow_change, ranks)
        batches = draw_first(training_batches(run, parts))
        if not going_on and ranks.is_main:
            make_folder(run)
        listeners = observers.standard() if watch is None else watch
        with (
            with_step_in_error(run, OSError),
            observers.watching(run, listeners) if ranks.is_main else nullcontext() as hook,
            with_step_in_error(run, UserError),
            checkpoints.Writer(run.folder, recipe.train.keep) as writer,
            StopSignals() as signals,
            record_outcome(run),
        ):
            trainer = Trainer(run, hook, writer)
            with stop_if_workers_died(trainer, signals):
                for loaded in batches:
                    trainer.step(loaded)
                    if ranks.any(signals.asked is not None) and run.step < run.total_steps:
                        trainer.stop(signals.asked or "of another process")
        return run


@contextmanager
def stop_if_workers_died(trainer: Trainer, signals: StopSignals) -> Iterator[None]:
    """A SIGTERM to the whole process group ends the data workers: that is a stop too, after the last step."""
    try:
        yield
    except WorkerDied:
        time.sleep(0.2)  # the workers' end may be known before the signal
        if signals.asked is None:
            raise
        trainer.stop(signals.asked, together=False)


@contextmanager
def record_outcome(run: Run) -> Iterator[None]:
    """Leaves word for the observers of why the run ends, in `run.notes["stopped"]`."""
    try:
        yield
        run.notes["stopped"] = "finished"
    except BaseException as error:
        why = f"signal {error}" if isinstance(error, Stopped) else f"error {type(error).__name__}: {error}"
        run.notes["stopped"] = why.partition("\n")[0]
        raise


class Trainer:
    """A run's steps: each trained, measured where that is due, told to the observers, and saved.

    Of several processes all train and the main one does the rest.
    """

    def __init__(self, run: Run, hook: Any, writer: checkpoints.Writer) -> None:
        self.run, self.hook, self.writer = run, hook, writer
        self.ranks = run.training.ranks
        self.settings = run.recipe.train
        self.eval_every = self.settings.eval_every if run.samples.classes else 0
        self.knn = OnlineKnn(run)
        self._timed = time.monotonic(), run.step
        self._met: list[tuple[Sequence[Skipped], Sequence[str]]] = []

    def step(self, loaded: Sequence[StepBatch]) -> None:
        """One optimizer step on its micro-batches, and whatever is due after it."""
        output = self.run.training.accumulate([(part.batch, part.plan) for part in loaded])
        self._met += [(part.skipped, part.unusual) for part in loaded]
        logging = self._due(self.settings.log_every) or self._due(self.eval_every)
        saving = self._due(self.settings.checkpoint_every)
        if logging or saving:
            self._count_inputs()
        if self.ranks.is_main:
            self._tell(self._measured(output) if logging else {})
        if saving:
            self.save()
        if logging:
            self._timed = time.monotonic(), self.run.step

    def _tell(self, metrics: Mapping[str, Any]) -> None:
        run = self.run
        if run.training.skip_reason is not None:
            record(run.folder, "step_skipped", run.step, why=run.training.skip_reason)
        self.hook.jepa_step_ended(run=run, step=run.step, metrics=metrics)
        self.writer.check()

    def _measured(self, output: Output) -> dict[str, Any]:
        metrics = measure(self.run, output) | {"images_per_s": self._speed()} | self.run.inputs.metrics()
        if self.eval_every and self._due(self.eval_every):
            metrics["val_knn"] = self.knn()
        return metrics

    def _count_inputs(self) -> None:
        """Adds what every process met in its data since the last time."""
        everyones = self.ranks.gather(self._met)
        self._met = []
        if self.ranks.is_main:
            for skipped, odd in chain.from_iterable(everyones):
                self.run.inputs.add(skipped, odd)

    def save(self) -> None:
        """Hands the run's state to the writer, unless it has this step's."""
        if self.ranks.is_main and self.writer.saved != self.run.step:
            self.writer.save(self.run.step, self.run.model.state_dict(), state_of(self.run))

    def stop(self, signal: str, together: bool = True) -> None:
        """Saves and raises Stopped; `together`: the other processes come here too, and say what they met."""
        if together:
            self._count_inputs()
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
def with_step_in_error(run: Run, kind: type[Exception]) -> Iterator[None]:
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


def micro_batches(recipe: Recipe, ranks: Ranks) -> int:
    """Forward passes of one optimizer step, those of all processes; each does as many as the others.

    Raises UserError where the sizes do not divide.
    """
    size = recipe.train.batch_size
    part = recipe.train.micro_batch or max(1, size // ranks.world_size)
    if size % part:
        raise UserError(f"train.micro_batch {part} does not divide train.batch_size {size}")
    if (size // part) % ranks.world_size:
        raise UserError(
            f"{size // part} micro-batches of {part} (train.batch_size {size}) cannot be shared evenly by "
            f"{ranks.world_size} processes; change train.micro_batch or their number"
        )
    return size // part


def training_batches(run: Run, parts: int) -> Iterator[list[StepBatch]]:
    """This process's micro-batches of each step still to do; micro-batch m is drawn as rank m of `parts`."""
    recipe, model, ranks = run.recipe, run.model, run.training.ranks
    each = parts // ranks.world_size
    flat = make_loader(
        run.samples,
        recipe.transform,
        model.encoder.view_shape(),
        recipe.train.batch_size // parts,
        steps=range(run.step, run.total_steps),
        seed=recipe.seed,
        ranks=range(ranks.rank * each, (ranks.rank + 1) * each),
        world=parts,
        workers=recipe.data.workers,
        masker=model.masker,
        grid=model.grid(),
        total_steps=run.total_steps,
        max_corrupt=recipe.data.max_corrupt,
        pin_memory=run.training.device.type == "cuda",
    )
    return _grouped(iter(flat), each)


def draw_first(batches: Iterator[list[StepBatch]]) -> Iterator[list[StepBatch]]:
    """The same, with the first one drawn: data that cannot be used are found before anything is written."""
    first = list(islice(batches, 1))
    return chain(first, batches)


def _grouped(flat: Iterator[StepBatch], parts: int) -> Iterator[list[StepBatch]]:
    while group := list(islice(flat, parts)):
        yield group
