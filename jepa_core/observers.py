"""Core's observers: the metrics file, progress on the terminal, TensorBoard, the collapse alarm, pictures.

They use the three observer hooks and nothing else, so each can be left out, and anyone's stands beside
them. `train(..., watch=[*standard(), mine])` adds an object for one run; a plugin's hooks watch every run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jepa_core import plugins
from jepa_core.hookspecs import hookimpl
from jepa_core.metrics import METRICS, to_line
from jepa_core.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsWriter:
    """Appends one line a logged step to metrics.jsonl (see `metrics`)."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        self._file = (run.folder / METRICS).open("a", encoding="utf-8")

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        if metrics and self._file is not None:
            self._file.write(to_line(step, metrics))
            self._file.flush()

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        if self._file is not None:
            self._file.close()


class TensorBoard:
    """The same metrics as TensorBoard events in the run's folder."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            if self._writer is not None and isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()


class Terminal:
    """A progress bar on a terminal, plain lines elsewhere; for training and for feature extraction.

    As a bar for other work it is a `jepa_core.evaluate.Progress`: `begin(what, total)`, `advance(n)`.
    """

    LINE_EVERY = 10.0
    """Seconds between two plain lines."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._what, self._done, self._from = "", 0, 0
        self._total: int | None = None
        self._started = self._printed = time.monotonic()

    def begin(self, what: str, total: int | None) -> None:
        """A new piece of work of `total` images."""
        self._start(what, total, "images")

    def advance(self, n: int) -> None:
        """`n` more images are done."""
        self._done += n
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        self._show(self._done, f"{rate:,.0f} images/s")

    def end(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        for line in _opening(run):
            self.console.print(line, highlight=False, soft_wrap=True)
        self._start("training", run.total_steps, "steps", run.step)

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        if metrics:
            self._show(step, _summary(metrics))

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        self.end()

    def _start(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        self.end()
        self._what, self._total, self._done = what, total, 0
        self._started = self._printed = time.monotonic()
        self._from = done
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[said]}"),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task(what, total=total, completed=done, said="")
            self._bar.start()

    def _show(self, done: int, said: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, said=said)
            return
        now = time.monotonic()
        if now - self._printed >= self.LINE_EVERY or done == self._total:
            self._printed = now
            self.console.print(self._line(done, now - self._started, said), highlight=False, soft_wrap=True)

    def _line(self, done: int, passed: float, said: str) -> str:
        if not self._total:
            return f"{self._what}: {done:,}  {said}"
        left = passed * (self._total - done) / max(1, done - self._from)
        return f"{self._what}: {done:,} of {self._total:,}, {_clock(left)} left  {said}"


class CollapseAlarm:
    """Says once, in one line, when RankMe, feature spread or prediction retrieval speak of a collapse."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._looks: list[Any] = []
        self._said = False

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        from jepa_core.evaluate import AlarmSettings, Look, collapse_warning

        if "rankme" not in metrics:
            return
        spread, retrieval = metrics["feature_std"], metrics.get("retrieval")
        self._looks.append(Look(step, metrics["rankme"], spread, retrieval))
        warning = collapse_warning(self._looks, AlarmSettings())
        if warning and not self._said:
            self._said = True
            run.notes.setdefault("alarms", []).append(warning)
            self.console.print(f"[bold yellow]alarm[/] {warning}", highlight=False)


class Pictures:
    """masks.png when a run starts (for images on a grid of rows and columns), curves.png when it ends."""

    SHOWN = 8
    """Images in masks.png."""

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        from jepa_core.assembly import sample_masks
        from jepa_core.data import eval_loader
        from jepa_core.pictures import draw_masks, unnormalise

        encoder: Any = run.model.encoder
        shape = encoder.view_shape()
        images, _ = next(
            iter(eval_loader(run.samples, run.recipe.transform, shape, self.SHOWN, 0, self.SHOWN))
        )
        plan = sample_masks(run.model, len(images), run.recipe.seed)
        if len(run.model.grid()) == 2 and not plan.empty:
            shown = unnormalise(images, run.recipe.transform.mean, run.recipe.transform.std)
            draw_masks(shown, plan, run.model.grid(), run.folder / "masks.png")

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        from jepa_core.pictures import draw_curves

        if len(run.metrics()) > 1:
            draw_curves(run.folder / METRICS, run.folder / "curves.png")


def standard() -> list[object]:
    """Core's observers of one run."""
    return [MetricsWriter(), TensorBoard(), CollapseAlarm(), Pictures(), Terminal()]


@contextmanager
def watching(run: Run, observers: Sequence[object]) -> Iterator[Any]:
    """The hook caller with `observers`, then all plugins, listening in this order while the run lasts."""
    found = plugins.get()
    hook = found.manager.hook
    with ExitStack() as stack:
        for observer in reversed(observers):  # pluggy calls the newest first
            found.register(observer, f"observer {type(observer).__name__} at {id(observer):#x}")
            stack.callback(found.manager.unregister, observer)
        stack.callback(hook.jepa_run_ended, run=run)
        hook.jepa_run_started(run=run)
        yield hook


def _opening(run: Run) -> Iterator[str]:
    """What is about to happen, in two or three lines."""
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad) / 1e6
    grid = " × ".join(str(side) for side in run.model.grid())
    precision = "bf16" if run.training.bf16 else "fp32"
    where = f"on {run.training.device} in {precision}"
    yield f"{run.recipe.name}: {trained:.2f} M trained parameters, {grid} tokens, {where}"
    yield f"{len(run.samples):,} training images; {run.samples.note}".rstrip("; ")
    if run.recipe.train.eval_every and not run.samples.classes:
        yield "the images have no labels: the small kNN evaluations are left out"
    if run.step:
        yield f"going on after step {run.step:,}"


def _summary(metrics: Mapping[str, Any]) -> str:
    parts = [f"loss {metrics['loss']:.4f}"]
    if "retrieval" in metrics:
        parts.append(f"retrieval {metrics['retrieval']:.1%}")
    if "val_knn" in metrics:
        parts.append(f"kNN {metrics['val_knn']:.1%}")
    if math.isfinite(metrics.get("images_per_s", math.nan)):
        parts.append(f"{metrics['images_per_s']:,.0f} images/s")
    if metrics.get("corrupt_images"):
        parts.append(f"{metrics['corrupt_images']} corrupt images skipped")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
