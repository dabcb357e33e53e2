"""Sheets of images and tables as the page's template takes them: plain values, pictures as data: URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from jepa_core.evaluate.table import EvalResult
from jepa_core.plots.sheets import Cell, Outline, Scale, Sheet
from jepa_core.report.charts import map_figure, map_keys, png

SMALL = 64
"""Pixels of a side up to which an image is kept as it is and shown with square pixels."""


def sheet(made: Sheet) -> dict[str, Any]:
    """What the template needs of a sheet."""
    groups = [[cell(one, label) for one, label in _labelled(made, group)] for group in made.groups]
    return {
        "title": made.title,
        "flow": made.flow,
        "groups": groups,
        "legend": made.legend,
        "scale": scale(made.scale) if made.scale else None,
    }


def _labelled(made: Sheet, group: Sequence[Cell]) -> list[tuple[Cell, str]]:
    labels = [*made.labels, *[""] * len(group)]
    return list(zip(group, labels, strict=False))


def cell(one: Cell, label: str) -> dict[str, Any]:
    """One image with the words for those who do not see it."""
    height, width = one.pixels.shape[:2]
    return {
        "source": data_uri(one.pixels),
        "width": width,
        "height": height,
        "small": max(height, width) <= SMALL,
        "caption": one.caption,
        "alt": ", ".join(filter(None, (label, one.caption))),
        "strong": one.strong,
        "lines": [(path(lines), lines.colour) for lines in one.outlines],
    }


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [h, w, 3] as a data: URI; photographs as JPEG, whatever is small to the last bit as PNG."""
    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(pixels))
    if max(pixels.shape[:2]) <= SMALL:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(file, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def map_of(points: np.ndarray, classes: Sequence[str | None]) -> dict[str, Any]:
    """A map of images and its keys."""
    picture = png(map_figure(points, classes, legend=False), "none")
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return {"source": source, "keys": map_keys(classes), "images": len(points)}


def path(lines: Outline) -> str:
    """Lines as the `d` of an SVG path."""
    return "".join(f"M{a:.4g} {b:.4g}L{c:.4g} {d:.4g}" for (a, b), (c, d) in lines.edges)


def scale(of: Scale) -> dict[str, Any]:
    """A bar of a scale's colours, with its ends."""
    colours = [to_hex(colormaps[of.colours](share)) for share in np.linspace(0, 1, 9)]
    ends = f"{of.low:.2f}", f"{of.high:.2f}"
    return {"gradient": ", ".join(colours), "low": ends[0], "high": ends[1], "label": of.label}


def with_code(text: str) -> Markup:
    """Text in which `names` between backticks are set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def probe_table(result: EvalResult) -> dict[str, Any]:
    """The probe table's cells and its caption."""
    head, *rows = result.cells()
    said = {"caption": result.caption(), "step": result.step, "task": result.task}
    return {"head": head, "rows": rows, **said}
