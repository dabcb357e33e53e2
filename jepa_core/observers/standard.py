"""Core's observers: metrics file, events file, TensorBoard, collapse alarm, pictures.

They use the three observer hooks and nothing else, so each can be left out or replaced by another.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape

from jepa_core import plugins
from jepa_core.errors import printable
from jepa_core.hookspecs import hookimpl
from jepa_core.observers.progress_bar import Terminal as Terminal
from jepa_core.runs.events_file import read_events, record
from jepa_core.runs.metrics_file import METRICS, to_line
from jepa_core.runs.run import Run
from jepa_core.runtime.environment import environment
from jepa_core.runtime.machine_load import LoadMeter
from jepa_core.runtime.plugin_calls import PluginError, call_plugin

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("jepa")


class MetricsWriter:
    """Appends a line to metrics.jsonl for each logged step."""

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


class Journal:
    """A `started` and a `stopped` event in events.jsonl for each process that works on the run.

    The reason of `stopped` is what the trainer left in `run.notes["stopped"]`. Beside the wall-clock time
    stand the CPU time of this process and its ended data workers, and how many cores other processes kept
    busy on average, where the system tells.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._cpu_since = 0.0
        self._load: LoadMeter | None = None

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        self._since, self._cpu_since, self._load = time.monotonic(), _cpu_seconds(), LoadMeter()
        record(run.folder, "started", run.step, **_facts(run))

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        if self._since is not None and self._load is not None:
            seconds = round(time.monotonic() - self._since, 1)
            cost = {"seconds": seconds, "cpu_seconds": round(_cpu_seconds() - self._cpu_since, 1)}
            load = self._load.read()
            if load is not None:
                cost["other_cores"] = round(load.others, 2)
            record(run.folder, "stopped", run.step, why=_reason(run), **cost)


def _facts(run: Run) -> dict[str, Any]:
    """What a report needs to know of a run without opening its data or its model."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "resumed": bool(read_events(run.folder, "started")),
        "total_steps": run.total_steps,
        "images": len(run.samples),
        "data": run.samples.note,
        "parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "device": str(run.training.device),
        "processes": run.training.ranks.world_size,
        "precision": "bf16" if run.training.bf16 else "fp32",
        "environment": environment(),
    }


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _reason(run: Run) -> str:
    early = "finished" if run.step == run.total_steps else "stopped early"
    return str(run.notes.get("stopped", early))


class CollapseAlarm:
    """Warns once a run, in one line, when RankMe, feature spread or prediction retrieval indicate a collapse.

    A resumed run is judged by its whole metrics file, as if it had never stopped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._readings: list[Any] = []
        self._raised = False

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        for line in run.metrics():
            self._keep(line["step"], line)

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        from jepa_core.evaluate.collapse import AlarmSettings, collapse_warning

        self._keep(step, metrics)
        warning = collapse_warning(self._readings, AlarmSettings()) if metrics else None
        if warning and not self._raised:
            self._raised = True
            run.notes.setdefault("alarms", []).append(warning)
            record(run.folder, "alarm", step, text=warning)
            self.console.print(f"[bold yellow]alarm[/] {escape(printable(warning))}", highlight=False)

    def _keep(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keeps the readings of one step; metrics.jsonl has null for a number that was not finite."""
        from jepa_core.evaluate.collapse import CollapseReading

        if "rankme" in metrics:
            rank, spread = (
                nan if metrics[key] is None else metrics[key] for key in ("rankme", "feature_std")
            )
            self._readings.append(CollapseReading(step, rank, spread, metrics.get("retrieval")))


class Pictures:
    """masks.png when a run starts, curves.png when it ends, and then plugins' report sections in pictures/.

    The sections are drawn for a finished run only; one that fails costs the drawings, never the run.
    """

    SHOWN = 8
    """Images in masks.png, or time steps of clips."""

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        from jepa_core.assembly import step_masks
        from jepa_core.data.eval_batches import eval_loader
        from jepa_core.plots.clips import masks_over
        from jepa_core.plots.sheets import draw_sheet, unnormalise

        encoder: Any = run.model.encoder
        shape, masks = encoder.view_shape(), step_masks(run.model, run.recipe.seed)
        if len(run.model.grid()) not in (2, 3) or len(shape) not in (3, 4) or masks.side:
            return  # no picture, or masks that follow values of training samples
        views, _ = next(
            iter(eval_loader(run.samples, run.recipe.transform, shape, self.SHOWN, 0, self.SHOWN))
        )
        plan = masks(0, 0, len(views))
        if not plan.empty:
            shown = unnormalise(views, run.recipe.transform.mean, run.recipe.transform.std)
            draw_sheet(masks_over(shown, plan, run.model.grid(), self.SHOWN), run.folder / "masks.png")

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        from jepa_core.plots.curves import draw_curves

        if len(run.metrics()) > 1:
            draw_curves(run.folder / METRICS, run.folder / "curves.png")
        if run.notes.get("stopped") == "finished" and plugins.registry().sections():
            from jepa_core.report.sections import draw_sections

            try:
                call_plugin(draw_sections, run.recipe, run.model, run.folder / "pictures")
            except PluginError as error:
                log.warning("the drawings of plugins' report sections are left out: %s", error)


def standard() -> list[object]:
    """Core's observers of one run."""
    return [MetricsWriter(), Journal(), TensorBoard(), CollapseAlarm(), Pictures(), Terminal()]
