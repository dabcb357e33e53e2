"""Progress of long work: a bar on a terminal, plain lines in a file or pipe.

One class serves training, as an observer of the run, and other work (feature extraction), as a
`jepa_core.runtime.progress.Progress`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jepa_core.errors import printable
from jepa_core.hookspecs import hookimpl
from jepa_core.runs.run import Run
from jepa_core.runtime.machine_load import LoadMeter


class Terminal:
    """A progress bar on a terminal, plain lines elsewhere, on standard error.

    In training on a CPU it says when other processes keep the cores busy that the step's threads need.
    """

    LINE_EVERY = 10.0
    """Seconds between two plain lines, and between two measurements of the machine's load."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._what, self._done, self._from = "", 0, 0
        self._total: int | None = None
        self._started = self._printed = time.monotonic()
        self._meter: LoadMeter | None = None
        self._measured, self._busy = 0.0, ""

    def begin(self, what: str, total: int | None) -> None:
        """Starts a new piece of work of `total` images; None where their number is not known."""
        self._start(what, total, "images")

    def advance(self, n: int) -> None:
        """Counts `n` more images."""
        self._done += n
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        self._show(self._done, f"{rate:,.0f} images/s")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        for line in _opening(run):
            self._print(line)
        if run.training.device.type == "cpu" and run.training.ranks.world_size == 1:
            self._meter, self._measured = LoadMeter(), time.monotonic()
        self._start("training", run.total_steps, "steps", run.step)

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        if metrics:
            self._show(step, _summary(metrics) + self._busy_note(step))

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
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[summary]}", markup=False),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task(printable(what), total=total, completed=done, summary="")
            self._bar.start()

    def _busy_note(self, step: int) -> str:
        """A word on the machine's load at the last measurement; measured every `LINE_EVERY` seconds."""
        now = time.monotonic()
        if self._meter is not None and (now - self._measured >= self.LINE_EVERY or step == self._total):
            load, self._measured = self._meter.read(), now
            slow = load is not None and load.slows(torch.get_num_threads())
            self._busy = f"  busy machine: {load}" if slow else ""
        return self._busy

    def _show(self, done: int, summary: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, summary=summary)
            return
        now = time.monotonic()
        if now - self._printed >= self.LINE_EVERY or done == self._total:
            self._printed = now
            self._print(self._line(done, now - self._started, summary))

    def _line(self, done: int, passed: float, summary: str) -> str:
        if not self._total:
            return f"{self._what}: {done:,}  {summary}"
        left = passed * (self._total - done) / max(1, done - self._from)
        return f"{self._what}: {done:,} of {self._total:,}, {_clock(left)} left  {summary}"

    def _print(self, line: str) -> None:
        self.console.print(printable(line), highlight=False, soft_wrap=True, markup=False)


def _opening(run: Run) -> Iterator[str]:
    """Size of the model, device, data, and what is unusual about this start, a line each."""
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
