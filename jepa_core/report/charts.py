"""The map of images, and matplotlib figures as inline SVG that follows the page's style.

What is unusual: matplotlib draws with the page's light colours, and each colour that has a role (text, grid,
a run) becomes a variable of the style sheet, so one drawing serves light, dark and print. The map of images
is a PNG: it has only points.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from jepa_core.plots.curves import FAINT, GRID, INK, SERIES
from jepa_core.plots.sheets import STYLE

ROLES = {colour: f"run{number}" for number, colour in enumerate(SERIES)}
ROLES |= {INK: "ink", FAINT: "faint", GRID: "grid"}
THEMED: Any = {
    **STYLE,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "savefig.transparent": True,
}
COLOURED_CLASSES = 10
"""Classes that get a colour in the map; images of the others are grey."""
CLASS_COLOURS = ("#1b87c9", "#df6420", "#0f9a74", "#c0649a", "#b37d00")
"""Okabe and Ito's hues, with a contrast of at least 3:1 both with white and with the dark page."""
GREY = "#7f8791"
GLYPHS = {"o": "●", "^": "▲"}
MARKERS = tuple(GLYPHS)
OTHERS = "other classes"


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
    """A colour and a marker for each of the most frequent classes, so that every two differ in one of them;
    grey for the rest. Empty where there are no labels."""
    counts = Counter(label for label in labels if label is not None)
    common = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:COLOURED_CLASSES])
    count = len(CLASS_COLOURS)
    keys = [Key(name, CLASS_COLOURS[i % count], MARKERS[i // count]) for i, name in enumerate(common)]
    return [*keys, Key(OTHERS, GREY, MARKERS[0])] if len(counts) > len(common) else keys


def map_figure(points: np.ndarray, labels: Sequence[str | None], legend: bool) -> Figure:
    """A map of images: points [n, 2] with the name of each one's class, or None."""
    keys = map_keys(labels)
    names = {key.name for key in keys}
    key_names = np.array([label if label in names else OTHERS for label in labels])
    with rc_context(THEMED):
        figure = Figure(figsize=(8.4 if legend else 7.2, 4.8), layout="constrained", dpi=200)
        axis = figure.subplots()
        axis.set_axis_off()
        axis.set_aspect("equal", adjustable="datalim")
        for key in keys or [Key(OTHERS, GREY, MARKERS[0])]:
            x, y = points[key_names == key.name].T
            style: Any = {"s": 12, "c": key.colour, "alpha": 0.9, "linewidths": 0}
            axis.scatter(x, y, marker=key.marker, label=_plain_text(key.name), **style)
        if legend and keys:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.6)
    return figure


def _plain_text(name: str) -> str:
    """A class name that matplotlib takes as it is: no formula, and not hidden from the legend."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def png(figure: Figure, background: str = "white") -> bytes:
    """A figure as a PNG; `background` may be `none`."""
    file = io.BytesIO()
    with rc_context(THEMED):
        figure.savefig(file, format="png", transparent=background == "none", facecolor=background)
    return file.getvalue()


def themed_svg(figure: Figure, salt: str) -> str:
    """A figure as an `<svg>` element for an HTML page. `salt` keeps its ids apart from other figures'."""
    text = io.StringIO()
    with rc_context({**THEMED, "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None}, dpi=figure.dpi)
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows both, and nothing on the page names a host
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    for colour, role in ROLES.items():
        svg = re.sub(rf"\b(fill|stroke): {colour}\b", rf"\1: var(--{role})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # the page's
    return re.sub(r"\s*\n\s*", " ", svg)
