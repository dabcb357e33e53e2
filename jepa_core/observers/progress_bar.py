"""Progress on the terminal: a bar where there is one, plain lines elsewhere.

One class serves training, as an observer of the run, and any other long work, as a
`jepa_core.runtime.progress.Progress`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jepa_core.hookspecs import hookimpl
from jepa_core.runs.run import Run


class Terminal:
    """A progress bar on a terminal, plain lines elsewhere; for training and for feature extraction.

    As a bar for other work it is a `jepa_core.runtime.progress.Progress`: `begin(what, total)`, `advance(n)`.
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

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

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
    for damage in run.notes.get("damaged", ()):
        yield f"damaged checkpoint passed over: {damage}"
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
    if metrics.get("skipped_steps"):
        parts.append(f"{metrics['skipped_steps']} steps skipped")
    if metrics.get("corrupt_images"):
        parts.append(f"{metrics['corrupt_images']} corrupt images skipped")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
