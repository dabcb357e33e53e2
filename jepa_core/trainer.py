"""The training loop: one for every variant.

    for each optimizer step: load -> forward, backward, optimizer, target update -> log, evaluate, save

It knows no method. What a step is stands in `training.step.TrainingStep`, what a model is in `jepa.JEPA`,
what is shown and written in `observers`. Samples and masks come from (seed, rank, step), so a resumed run
goes on exactly where it stood.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from jepa_core import observers
from jepa_core.data.images import Skipped
from jepa_core.data.step_dataset import StepBatch
from jepa_core.data.workers import WorkerDied
from jepa_core.errors import UserError
from jepa_core.evaluate.online import OnlineKnn, SpeedMeter, measure
from jepa_core.jepa import Output
from jepa_core.runs import checkpoints
from jepa_core.runs.batches import draw_first, micro_batches, training_batches
from jepa_core.runs.checkpoint_writer import CheckpointWriter
from jepa_core.runs.events_file import record
from jepa_core.runs.folder import RECIPE
from jepa_core.runs.lock import RunLock
from jepa_core.runs.run import Run
from jepa_core.runs.start import make_folder, start_or_resume, state_of
from jepa_core.runtime.distributed import Ranks, init_distributed
from jepa_core.runtime.malloc import keep_freed_blocks
from jepa_core.runtime.spinning_threads import warn_of_spinning_threads
from jepa_core.runtime.stop_signals import Stopped, StopSignals
from jepa_core.runtime.thread_errors import thread_errors_in_a_line
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
    the run's, a step that is not finite, a checkpoint that cannot be written, and a process of the run that
    is lost; `runs.lock.RunLocked` where another process works on the folder; `stop_signals.Stopped`, with
    the checkpoint saved, when a signal asks the run to stop.
    """
    keep_freed_blocks()  # before the data are loaded; `make_step` comes after
    warn_of_spinning_threads()
    with init_distributed(recipe.train.device) as ranks:
        folder = ranks.broadcast(Path(run_dir))
        with lock_folder(folder, ranks) as lock:
            resuming = ranks.broadcast((folder / RECIPE).is_file()) if resume == "auto" else resume
            run = start_or_resume(recipe, folder, resuming, overwrite, allow_change, ranks)
            batches = draw_first(training_batches(run, micro_batches(run.recipe, ranks)))
            if not resuming:
                ranks.run_on_main(lambda: make_folder(run))
            with (
                StopSignals() as signals,  # outermost: torchrun sends SIGTERM to those that lost a process
                thread_errors_in_a_line(),
                with_step_in_error(run, OSError),
                _observe(run, observers.standard() if watch is None else watch) as hook,
                with_step_in_error(run, UserError),
                record_outcome(run),
                ranks.lost_process_in_error(),
                CheckpointWriter(run.folder, recipe.train.keep) as writer,
            ):
                Trainer(run, hook, writer, lock, signals).train(batches)
        return run


@contextmanager
def lock_folder(folder: Path, ranks: Ranks) -> Iterator[RunLock]:
    """The main process holds the run's folder; where it cannot, all processes raise its error."""
    lock = RunLock(folder)
    with ExitStack() as stack:
        ranks.run_on_main(lambda: stack.enter_context(lock) and None)
        yield lock


def _observe(run: Run, listeners: Sequence[object]) -> AbstractContextManager[Any]:
    """The hook caller of the main process; None in the others."""
    return observers.observe(run, listeners) if run.training.ranks.is_main else nullcontext()


@contextmanager
def record_outcome(run: Run) -> Iterator[None]:
    """Puts why the run ends into `run.notes["stopped"]`, from which the `stopped` event has it."""
    try:
        yield
        run.notes["stopped"] = "finished"
    except BaseException as error:
        why = f"signal {error}" if isinstance(error, Stopped) else f"error {type(error).__name__}: {error}"
        run.notes["stopped"] = why.partition("\n")[0]
        raise


class Trainer:
    """A run's steps: each trained, measured where that is due, passed to the observers, and saved.

    Of several processes all train and the main one does the rest.
    """

    def __init__(
        self, run: Run, hook: Any, writer: CheckpointWriter, lock: RunLock, signals: StopSignals
    ) -> None:
        self.run, self.hook, self.writer, self.lock, self.signals = run, hook, writer, lock, signals
        self.ranks = run.training.ranks
        self.settings = run.recipe.train
        self.eval_every = self.settings.eval_every if run.samples.classes else 0
        self.knn = OnlineKnn(run)
        self.speed = SpeedMeter(run)
        self._problems: list[tuple[Sequence[Skipped], Sequence[str]]] = []

    def train(self, batches: Iterable[Sequence[StepBatch]]) -> None:
        """All steps of the run. Raises Stopped, with the checkpoint saved, after a signal."""
        try:
            with self._stop_if_workers_died():
                for parts in batches:
                    self.step(parts)
                    if (
                        self.ranks.any(self.signals.asked is not None)
                        and self.run.step < self.run.total_steps
                    ):
                        self.stop(self._signal_of_all())
            self.writer.wait()
        except (OSError, UserError):
            time.sleep(0.3)  # a folder that is being removed loses its files one by one
            raise
        finally:
            self.lock.check()  # that the folder is gone says more than which file was missed first

    @contextmanager
    def _stop_if_workers_died(self) -> Iterator[None]:
        """A SIGTERM to the whole process group ends the data workers too: that is a stop, not an error."""
        try:
            yield
        except WorkerDied:
            time.sleep(0.2)  # the end of a worker may be noticed before the signal
            if self.signals.asked is None:
                raise
            self.stop(self.signals.asked, together=False)

    def _signal_of_all(self) -> str:
        """The signal that stops the run, and which process got it where this one did not."""
        names = self.ranks.gather(self.signals.asked)
        rank, name = next((rank, name) for rank, name in enumerate(names) if name is not None)
        return self.signals.asked or f"{name} to process {rank}"

    def step(self, parts: Sequence[StepBatch]) -> None:
        """One optimizer step on its micro-batches, and whatever is due after it."""
        output = self.run.training.accumulate([(part.batch, part.plan) for part in parts])
        self._problems += [(part.skipped, part.unusual) for part in parts]
        logging = self._is_due(self.settings.log_every) or self._is_due(self.eval_every)
        saving = self._is_due(self.settings.checkpoint_every)
        if logging or saving:
            self._count_inputs()
        if self.ranks.is_main:
            self._notify(self._measure(output) if logging else {})
        if saving:
            self.save()
        if logging:
            self.speed.restart()

    def _notify(self, metrics: Mapping[str, Any]) -> None:
        """Tells the observers of the step. Raises UserError where the folder or a checkpoint is lost."""
        run = self.run
        self.lock.check()
        if run.training.skip_reason is not None:
            record(run.folder, "step_skipped", run.step, why=run.training.skip_reason)
        self.hook.jepa_step_ended(run=run, step=run.step, metrics=metrics)
        self.writer.check()

    def _measure(self, output: Output) -> dict[str, Any]:
        metrics = measure(self.run, output) | self.speed.read() | self.run.inputs.metrics()
        if self.eval_every and self._is_due(self.eval_every):
            metrics["val_knn"] = self.knn()
        return metrics

    def _count_inputs(self) -> None:
        """Adds the corrupt and odd inputs of every process since the last time."""
        of_all = self.ranks.gather(self._problems)
        self._problems = []
        if self.ranks.is_main:
            for skipped, odd in chain.from_iterable(of_all):
                self.run.inputs.add(skipped, odd)

    def save(self) -> None:
        """Hands the run's state to the writer, unless it has this step's."""
        if self.ranks.is_main and self.writer.saved != self.run.step:
            self.writer.save(self.run.step, self.run.model.state_dict(), state_of(self.run))

    def stop(self, signal: str, together: bool = True) -> None:
        """Saves and raises Stopped; `together`: the other processes come here too, and add their counts."""
        if together:
            self._count_inputs()
        self.save()
        self.writer.wait()
        raise Stopped(signal)

    def _is_due(self, every: int) -> bool:
        return self.run.step == self.run.total_steps or (every > 0 and self.run.step % every == 0)


@contextmanager
def with_step_in_error(run: Run, kind: type[Exception]) -> Iterator[None]:
    """Turns an error into a UserError of one line: the step, the error, and the last good checkpoint.

    A full disk, or a folder that is gone, is an OSError of an observer that writes: metrics, TensorBoard,
    pictures.
    """
    try:
        yield
    except kind as error:
        if kind is OSError and isinstance(error.__context__, UserError):
            raise error.__context__ from None  # an observer failed at the end, after what had ended the run
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.strerror}: {os.fsdecode(error.filename)}" if error.filename else error.strerror
        raise UserError(f"stopped at step {run.step:,}: {text}; {_last_good(run.folder)}") from error


def _last_good(folder: Path) -> str:
    try:
        checkpoint, _ = checkpoints.newest_good(folder)
    except UserError as error:
        return str(error)
    return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
