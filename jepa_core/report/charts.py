"""Figures for the page: inline SVG that takes its colours and letters from the page's style.

What is unusual: matplotlib draws with the page's light colours, and each that has a role (ink, grid, the
colour of a run) becomes a variable of the style sheet, so one drawing serves light, dark and print.
A map of images stays an image: it has only points.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from jepa_core.plots.curves import FAINT, GRID, INK, SERIES, Log, Panel, draw_panel
from jepa_core.plots.sheets import STYLE

ROLES = {INK: "ink", FAINT: "faint", GRID: "grid"} | {
    colour: f"run{number}" for number, colour in enumerate(SERIES)
}
THEMED: Any = {
    **STYLE,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "savefig.transparent": True,
}
SHOWN_CLASSES = 10
"""Classes that get a colour in the map; images of the others stay grey."""
CLASS_COLOURS = ("#1b87c9", "#df6420", "#12a37c", "#cf78ac", "#d99a12")
"""Okabe and Ito's, evened out to be seen on white and on black."""
GREY = "#8b939d"
GLYPHS = {"o": "●", "^": "▲"}
MARKERS = tuple(GLYPHS)
OTHERS = "other classes"


def curve_svg(panel: Panel, logs: Mapping[str, Log], salt: str) -> str:
    """One panel of curves; `salt` as for `themed_svg`."""
    with rc_context(THEMED):
        figure = Figure(figsize=(3.3, 2.1))
        draw_panel(figure.add_axes((0.165, 0.2, 0.825, 0.77)), panel, logs)
        return themed_svg(figure, f"{salt} {panel.key}")


@dataclass(frozen=True)
class Key:
    """How the images of one class are drawn in a map."""

    name: str
    colour: str
    marker: str
    """matplotlib's."""

    @property
    def glyph(self) -> str:
        """The marker as a letter."""
        return GLYPHS[self.marker]


def map_keys(labels: Sequence[str | None]) -> list[Key]:
    """A colour and a marker for each of the commonest classes, so that neither has to be told apart alone;
    grey for the rest. Empty where there are no labels."""
    counts = Counter(label for label in labels if label is not None)
    common = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:SHOWN_CLASSES])
    count = len(CLASS_COLOURS)
    keys = [Key(name, CLASS_COLOURS[i % count], MARKERS[i // count]) for i, name in enumerate(common)]
    return [*keys, Key(OTHERS, GREY, MARKERS[0])] if len(counts) > len(common) else keys


def map_figure(points: np.ndarray, labels: Sequence[str | None], legend: bool) -> Figure:
    """A map of images: points [n, 2] with the name of each one's class, or None."""
    keys = map_keys(labels)
    known = {key.name for key in keys}
    named = np.array([label if label in known else OTHERS for label in labels])
    with rc_context(THEMED):
        figure = Figure(figsize=(8.4 if legend else 7.2, 4.8), layout="constrained", dpi=200)
        axis = figure.subplots()
        axis.set_axis_off()
        axis.set_aspect("equal", adjustable="datalim")
        for key in keys or [Key(OTHERS, GREY, MARKERS[0])]:
            x, y = points[named == key.name].T
            looks: Any = {"s": 12, "c": key.colour, "alpha": 0.75, "linewidths": 0}
            axis.scatter(x, y, marker=key.marker, label=key.name, **looks)
        if legend and keys:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.6)
    return figure


def png(figure: Figure, background: str = "white") -> bytes:
    """A figure as a PNG; `background` may be `none`."""
    file = io.BytesIO()
    with rc_context(THEMED):
        figure.savefig(file, format="png", transparent=background == "none", facecolor=background)
    return file.getvalue()


def themed_svg(figure: Figure, salt: str) -> str:
    """A figure as an `<svg>` element for an HTML page. `salt` keeps its names apart from other figures'."""
    text = io.StringIO()
    with rc_context({**THEMED, "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None}, dpi=figure.dpi)
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows both, and nothing on the page names a host
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for colour, role in ROLES.items():
        svg = re.sub(rf"\b(fill|stroke): {colour}\b", rf"\1: var(--{role})", svg, flags=re.I)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # the page's
    return re.sub(r"\s*\n\s*", " ", svg)
