"""The curves of training logs: one panel a metric, one line a run.

What is unusual: a log says by itself what is drawn. Metrics the engine knows have a title and an order;
any other number that a variant logs gets a panel of its own behind them. Figures are made on a canvas of
their own (no pyplot, no window, no global state).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jepa_core.errors import UserError
from jepa_core.plots.sheets import COLOURS, STYLE
from jepa_core.runs.metrics_file import read_metrics

Log = Sequence[Mapping[str, Any]]
"""The lines of a metrics.jsonl, as `read_metrics` gives them."""

INK, FAINT, GRID = "#1f2329", "#6b7280", "#dfe3e8"
SERIES = ("#0072B2", *(colour for colour in COLOURS if colour != "#0072B2"))
"""Colours of the runs, in order."""
DASHES = ("-", "--", "-.", ":")
MOST = 400
"""Points of one line; a longer series is thinned to the extremes of as many stretches."""


@dataclass(frozen=True)
class Panel:
    """How one metric is drawn."""

    key: str
    title: str
    says: str = ""
    """How to read it, for people."""
    from_zero: bool = True
    noisy: bool = True
    """A measured series, which gets a running mean when it is long; a schedule is drawn as it is."""


PANELS = (
    Panel("loss", "loss", "the weighted sum of the terms", from_zero=False),
    Panel(
        "retrieval",
        "prediction retrieval (top-1)",
        "how often a prediction is nearest to its own image's target, among the batch",
    ),
    Panel("val_knn", "kNN on validation (top-1)", "target encoder, a few thousand images"),
    Panel("rankme", "RankMe", "how many directions the features of a batch use"),
    Panel("feature_std", "feature std", "0: all images get the same feature; about 1: none do"),
    Panel("grad_norm", "gradient norm", "of the whole gradient, before clipping"),
    Panel("lr", "learning rate", noisy=False),
    Panel("weight_decay", "weight decay", noisy=False),
    Panel("momentum", "target momentum", "of the target encoder's moving average", False, noisy=False),
    Panel("images_per_s", "images/s", "speed of training, without evaluations"),
    Panel("corrupt_images", "corrupt images", "passed over so far", noisy=False),
    Panel(
        "skipped_steps", "skipped steps", "so far, for a loss or gradient that was not finite", noisy=False
    ),
)
"""The metrics that the engine knows."""
NEVER = {"step", "retrieval_chance"}
COUNTS = {"corrupt_images", "skipped_steps"}
"""Metrics of which zero throughout is not worth a word."""


def known_panels(logs: Sequence[Log]) -> list[Panel]:
    """The panels of metrics that the engine knows, in order."""
    found = metrics_of(logs)
    return [p for p in PANELS if p.key in found and (p.key not in COUNTS or any(found[p.key]))]


def panels(logs: Sequence[Log]) -> list[Panel]:
    """The panels that are worth a look: the loss and its terms, known metrics, then all others by name.

    What has one value throughout is no curve: see `constants`.
    """
    drawn = metrics_of(logs).keys() - constants(logs).keys()
    known = [panel for panel in known_panels(logs) if panel.key in drawn]
    terms = sorted(key for key in drawn if key.startswith("loss/"))
    rest = sorted(drawn - {panel.key for panel in PANELS} - set(terms))
    own = [Panel(key, f"loss term {key[5:]}", from_zero=False) for key in terms if len(terms) > 1]
    more = [Panel(key, title(key), from_zero=False) for key in rest]
    first = [panel for panel in known if panel.key == "loss"]
    return [*first, *own, *(panel for panel in known if panel.key != "loss"), *more]


def constants(logs: Sequence[Log]) -> dict[str, float]:
    """The metrics that have one value in all of the logs' lines, of which there are several."""
    if sum(map(len, logs)) < 2:
        return {}
    values = {key: set(found) for key, found in metrics_of(logs).items()}
    return {key: found.pop() for key, found in values.items() if len(found) == 1}


def metrics_of(logs: Iterable[Log]) -> dict[str, list[float]]:
    """Every metric's finite values."""
    found: dict[str, list[float]] = {}
    for line in (line for log in logs for line in log):
        for key, value in line.items():
            if key not in NEVER and is_number(value):
                found.setdefault(key, []).append(value)
    return found


def title(key: str) -> str:
    """A metric's name for people."""
    return next((panel.title for panel in PANELS if panel.key == key), key.replace("_", " "))


def is_number(value: Any) -> bool:
    """Whether a logged value is a finite number (the log has null for one that was not finite)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def draw_curves(metrics: Path | str | Mapping[str, Log], path: Path | str) -> None:
    """A PNG of the curves in a `metrics.jsonl`, one panel each, or of several logs by name.

    The chance level of prediction retrieval is a dashed line, where the log has `retrieval_chance`.
    A resumed run's log may repeat steps: the later line counts. A last line cut short is left out.
    Raises UserError where the log holds nothing to draw.
    """
    logs = metrics if isinstance(metrics, Mapping) else {"": read_metrics(metrics)}
    drawn = known_panels(list(logs.values()))
    if not drawn:
        known = ", ".join(panel.key for panel in PANELS)
        where = metrics if not isinstance(metrics, Mapping) else "the logs"
        raise UserError(f"{where} holds nothing to draw; a log has lines with `step` and some of: {known}")
    columns = min(4 if len(drawn) > 6 else 3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    with rc_context(STYLE):
        width, height = 3.1 * columns, 2.2 * rows + 0.3 * (len(logs) > 1)
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False)
        bottom = 0.45 + 0.3 * (len(logs) > 1)  # inches, as all here
        edges = {
            "left": 0.6 / width,
            "right": 1 - 0.1 / width,
            "bottom": bottom / height,
            "top": 1 - 0.3 / height,
        }
        figure.subplots_adjust(**edges, wspace=0.3, hspace=0.55)
        for axis, panel in zip(axes.flat, drawn, strict=False):
            draw_panel(axis, panel, logs)
            axis.set_title(panel.title, loc="left", fontsize=10)
        for axis in axes.flat[len(drawn) :]:
            axis.set_visible(False)
        if len(logs) > 1:
            names = axes[0, 0].get_legend_handles_labels()
            figure.legend(*names, loc="lower center", ncols=min(len(logs), 6), frameon=False)
        figure.savefig(path, format="png")


def draw_panel(axis: Axes, panel: Panel, logs: Mapping[str, Log]) -> None:
    """One metric of every log that has it. Two runs differ in colour, and beyond eight in dashes too."""
    alone = len(logs) == 1
    for number, (name, log) in enumerate(logs.items()):
        colour, dash = line_style(number)
        steps, values = series(log, panel.key)
        smooth = running_mean(values) if panel.noisy else None
        if smooth is not None and alone:
            axis.plot(*thin(steps, values), color=colour, linewidth=0.8, alpha=0.3)
        mark = "o" if len(steps) == 1 else None
        drawn = thin(steps, values if smooth is None else smooth)
        axis.plot(*drawn, color=colour, linestyle=dash, linewidth=1.6, marker=mark, markersize=4, label=name)
    _draw_chance(axis, panel, logs.values())
    if panel.from_zero:
        axis.set_ylim(bottom=0)
    axis.set_xlabel("optimizer step", color=FAINT)
    axis.tick_params(colors=FAINT)
    axis.spines[:].set_color(FAINT)
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.locator_params(axis="x", nbins=5, integer=True)
    axis.locator_params(axis="y", nbins=5)


def line_style(number: int) -> tuple[str, str]:
    """(colour, dash) of the run with this number, from 0."""
    return SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]


def _draw_chance(axis: Axes, panel: Panel, logs: Iterable[Log]) -> None:
    for log in logs:
        steps, values = series(log, f"{panel.key}_chance")
        if len(steps):
            axis.plot(*thin(steps, values), color=FAINT, linestyle="--", linewidth=1)
            axis.annotate("chance", (steps[-1], values[-1]), ha="right", va="bottom", color=FAINT)
            return


def series(lines: Log, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric, both float [n]."""
    points = [(line["step"], line[key]) for line in lines if is_number(line.get(key))]
    pairs = np.array(points, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def running_mean(values: np.ndarray) -> np.ndarray | None:
    """A centred mean over a twentieth of a long series, shorter at the ends; None for a short one."""
    half = len(values) // 40
    if half < 1:
        return None
    sums = np.concatenate([[0.0], values.cumsum()])
    place = np.arange(len(values))
    start, stop = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def thin(steps: np.ndarray, values: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """A long series as the least and greatest value of each of `most` / 2 stretches, and both its ends."""
    if len(values) <= most:
        return steps, values
    kept = sorted({0, len(values) - 1, *_extremes(values, most // 2)})
    return steps[kept], values[kept]


def _extremes(values: np.ndarray, stretches: int) -> Iterator[int]:
    edges = np.linspace(0, len(values), stretches + 1).astype(int)
    for start, stop in pairwise(edges):
        yield int(start + values[start:stop].argmin())
        yield int(start + values[start:stop].argmax())
