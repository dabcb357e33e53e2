"""Curves of training logs: one panel for each metric, one line for each run.

What is unusual: the metrics found in the logs decide what is drawn. Metrics that the trainer logs have a
title and a fixed order; every other number that a plugin logs gets a panel after them. Figures use no
pyplot, so they need no display and change no global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jepa_core.errors import UserError
from jepa_core.plots.sheets import STYLE
from jepa_core.runs.metrics_file import read_metrics

Log = Sequence[Mapping[str, Any]]
"""The lines of a metrics.jsonl, as `read_metrics` gives them."""

INK, FAINT, GRID = "#1f2329", "#6b7280", "#dfe3e8"
SERIES = ("#0072B2", "#D55E00", "#00875F", "#B8548F", "#9A7200", "#3A93C9", "#6B4FA8", "#1F2329")
"""Colours of the first eight runs: each has a contrast of at least 3:1 with white (WCAG 2.2, 1.4.11)."""
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4, 1.6),
    (1.2, 1.2),
    (6, 1.4, 1.2, 1.4),
    (9, 2.5),
    (4, 1.4, 1.2, 1.4, 1.2, 1.4),
)
"""Lengths of dashes and gaps in line widths: the first eight runs have solid lines, the next eight the second
pattern, and so on."""
STYLES = len(SERIES) * len(DASHES)
"""Runs that can be told apart by colour and dashes."""
LARGEST = 1e100
"""Larger values are treated as not finite, so that differences and sums of values stay finite."""
MAX_POINTS = 400
"""Points of one line; a longer series is reduced to the extremes of as many intervals."""


@dataclass(frozen=True)
class Panel:
    """How one metric is drawn."""

    key: str
    title: str
    hint: str = ""
    """How to read the values."""
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
"""The metrics that the trainer logs, in the order in which they are drawn."""
HIDDEN = {"step", "retrieval_chance"}
"""Keys of a log line that get no panel of their own."""
COUNTS = {"corrupt_images", "skipped_steps"}
"""Counters that are worth showing only where they are not zero throughout."""


def known_panels(logs: Sequence[Log]) -> list[Panel]:
    """The panels of the trainer's metrics that occur in the logs, in order."""
    values = finite_values(logs)
    return [p for p in PANELS if p.key in values and (p.key not in COUNTS or any(values[p.key]))]


def panels(logs: Sequence[Log]) -> list[Panel]:
    """All panels to draw: the loss, its terms, the trainer's other metrics, then plugins' metrics by name.

    A metric that has one value in all lines gets no panel: see `constants`.
    """
    keys = finite_values(logs).keys() - constants(logs).keys()
    known = [panel for panel in known_panels(logs) if panel.key in keys]
    term_keys = sorted(key for key in keys if key.startswith("loss/"))
    other_keys = sorted(keys - {panel.key for panel in PANELS} - set(term_keys))
    terms = [Panel(key, f"loss term {key[5:]}", from_zero=False) for key in term_keys if len(term_keys) > 1]
    others = [Panel(key, title(key), from_zero=False) for key in other_keys]
    loss = [panel for panel in known if panel.key == "loss"]
    return [*loss, *terms, *(panel for panel in known if panel.key != "loss"), *others]


def constants(logs: Sequence[Log]) -> dict[str, float]:
    """Metrics that have the same value in every line, where the logs have at least two lines."""
    if sum(map(len, logs)) < 2:
        return {}
    distinct = {key: set(values) for key, values in finite_values(logs).items()}
    return {key: values.pop() for key, values in distinct.items() if len(values) == 1}


def finite_values(logs: Iterable[Log]) -> dict[str, list[float]]:
    """All finite values of each metric."""
    values: dict[str, list[float]] = {}
    for line in (line for log in logs for line in log):
        for key, value in line.items():
            if key not in HIDDEN and is_number(value):
                values.setdefault(key, []).append(value)
    return values


def title(key: str) -> str:
    """A metric's title: that of its panel, or its key with spaces."""
    return next((panel.title for panel in PANELS if panel.key == key), key.replace("_", " "))


def is_number(value: Any) -> bool:
    """Whether a logged value is a number that can be drawn: finite, and at most 1e100 in size.

    The log has null for a value that was not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST <= value <= LARGEST


def draw_curves(metrics: Path | str | Mapping[str, Log], path: Path | str) -> None:
    """Writes a PNG with a panel for each known metric of a `metrics.jsonl`, or of several logs by run name.

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
    names_in_row = min(len(logs), 2 * columns)
    legend = 0.1 + 0.2 * math.ceil(len(logs) / names_in_row) if len(logs) > 1 else 0  # inches, as all here
    with rc_context(STYLE):
        width, height = 3.1 * columns, 2.2 * rows + legend
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False)
        edges = {
            "left": 0.6 / width,
            "right": 1 - 0.1 / width,
            "bottom": (0.45 + legend) / height,
            "top": 1 - 0.3 / height,
        }
        figure.subplots_adjust(**edges, wspace=0.3, hspace=0.55)
        for axis, panel in zip(axes.flat, drawn, strict=False):
            draw_panel(axis, panel, logs)
            axis.set_title(panel.title, loc="left", fontsize=10)
        for axis in axes.flat[len(drawn) :]:
            axis.set_visible(False)
        if legend:
            handles = axes[0, 0].get_lines()[: len(logs)]
            figure.legend(handles, list(logs), loc="lower center", ncols=names_in_row, frameon=False)
        figure.savefig(path, format="png")


def draw_panel(axis: Axes, panel: Panel, logs: Mapping[str, Log]) -> None:
    """Draws one metric of every log. Runs differ in colour, from the ninth on also in their dashes."""
    single = len(logs) == 1
    for number, (name, log) in enumerate(logs.items()):
        colour, dashes = line_style(number)
        steps, values = series(log, panel.key)
        smooth = running_mean(values) if panel.noisy else None
        marker = "o" if len(steps) == 1 else None
        points = thin(steps, values if smooth is None else smooth)
        style: Any = {"color": colour, "linestyle": (0, dashes) if dashes else "-", "linewidth": 1.6}
        axis.plot(*points, **style, marker=marker, markersize=4, label=name)
        if smooth is not None and single:
            axis.plot(*thin(steps, values), color=colour, linewidth=0.8, alpha=0.3, zorder=1)
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


def line_style(number: int) -> tuple[str, tuple[float, ...]]:
    """(colour, dashes) of the run with this number, from 0; they repeat after `STYLES` runs."""
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
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def thin(
    steps: np.ndarray, values: np.ndarray, max_points: int = MAX_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """A series of at most about `max_points` points: see `extremes`."""
    index = extremes(values, max_points)
    return steps[index], values[index]


def extremes(values: np.ndarray, max_points: int = MAX_POINTS) -> np.ndarray:
    """Indices of both ends and of the least and greatest value in each of `max_points` / 2 intervals."""
    if len(values) <= max_points:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), max_points // 2 + 1).astype(int)
    index = {0, len(values) - 1}
    for start, stop in pairwise(edges):
        part = values[start:stop]
        index |= {int(start + part.argmin()), int(start + part.argmax())}
    return np.array(sorted(index))
