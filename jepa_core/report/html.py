"""Sheets of images, maps and probe tables as the template's plain values; pictures become data: URIs."""

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

from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore
from jepa_core.evaluate.table import EvalResult, Row, headline, percentage
from jepa_core.plots.sheets import Cell, Outline, Scale, Sheet
from jepa_core.report.charts import map_figure, map_keys, png
from jepa_core.report.text import NOT_COMPUTED, NOT_FINITE, gain, percent, standard_error

SMALL = 64
"""Pixels of a side up to which an image is stored without loss and enlarged with square pixels."""
UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, bidirectional overrides and surrogates: HTML forbids them, or they reorder its text."""


def clean(page: str) -> str:
    """A page without characters that HTML forbids: each becomes �."""
    return UNSAFE.sub("�", page)


def sheet_values(sheet: Sheet) -> dict[str, Any]:
    """What the template needs of a sheet."""
    groups = [
        [cell_values(cell, label) for cell, label in zip(group, _labels(sheet, len(group)), strict=True)]
        for group in sheet.groups
    ]
    return {
        "title": sheet.title,
        "flow": sheet.flow,
        "groups": groups,
        "legend": sheet.legend,
        "scale": scale_values(sheet.scale) if sheet.scale else None,
    }


def _labels(sheet: Sheet, count: int) -> list[str]:
    return [*sheet.labels, *[""] * count][:count]


def cell_values(cell: Cell, label: str) -> dict[str, Any]:
    """One image, with an `alt` text for those who do not see it."""
    height, width = cell.pixels.shape[:2]
    return {
        "source": data_uri(cell.pixels),
        "width": width,
        "height": height,
        "small": max(height, width) <= SMALL,
        "caption": cell.caption,
        "alt": ", ".join(filter(None, (label, cell.caption))),
        "strong": cell.strong,
        "outlines": [(path(outline), outline.colour) for outline in cell.outlines],
    }


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [h, w, 3] as a data: URI: a small image as PNG, without loss, a larger one as JPEG."""
    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(pixels))
    if max(pixels.shape[:2]) <= SMALL:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(file, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def film_uri(frames: np.ndarray, rate: float) -> str:
    """uint8 [T, h, w, 3] as a data: URI of `film_png`."""
    return f"data:image/png;base64,{base64.b64encode(film_png(frames, rate)).decode()}"


def film_png(frames: np.ndarray, rate: float) -> bytes:
    """uint8 [T, h, w, 3] as an endless film without loss (APNG), `rate` frames a second."""
    file, images = io.BytesIO(), [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    images[0].save(file, "PNG", save_all=True, append_images=images[1:], duration=1000 / rate, loop=0)
    return file.getvalue()


def map_values(points: np.ndarray, classes: Sequence[str | None]) -> dict[str, Any]:
    """A map of images and its legend."""
    picture = png(map_figure(points, classes, legend=False), "none")
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return {"source": source, "keys": map_keys(classes), "images": len(points)}


def path(outline: Outline) -> str:
    """An outline as the `d` of an SVG path."""
    return "".join(f"M{a:.4g} {b:.4g}L{c:.4g} {d:.4g}" for (a, b), (c, d) in outline.edges)


def scale_values(scale: Scale) -> dict[str, Any]:
    """A bar of a scale's colours, with its ends."""
    colours = [to_hex(colormaps[scale.colours](share)) for share in np.linspace(0, 1, 9)]
    low, high = f"{scale.low:.2f}", f"{scale.high:.2f}"
    return {"gradient": ", ".join(colours), "low": low, "high": high, "label": scale.label}


def with_code(text: str) -> Markup:
    """Text in which `names` between backticks are set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def headings(body: Markup) -> list[tuple[Markup, Markup]]:
    """(id, heading) of each section of a page's body, in order: its table of contents."""
    pairs = re.findall(r'id="([^"]+)">\s*(?:<summary>)?<h2>(.*?)</h2>', str(body))
    return [(Markup(id_), Markup(heading)) for id_, heading in pairs]


def probe_table(table: EvalResult) -> dict[str, Any]:
    """The probe table's cells and its caption; a score that is not finite is said not to be computed."""
    probes = list(table.rows[0].scores)
    titles = [f"{probe} {headline(table.rows[0], probe)}, %" for probe in probes]
    return {
        "head": ["features", "width", *titles, "RankMe", "std", *table.prediction_scores],
        "rows": [_row_cells(table, row, probes) for row in table.rows],
        "caption": table.caption(),
        "step": table.step,
        "task": table.task,
        "not_computed": NOT_FINITE if any(_lacks_reason(row) for row in table.rows) else "",
    }


def _lacks_reason(row: Row) -> bool:
    """Whether a score is missing and the table, which an earlier version made, has no reason for it."""
    return any(percent(row, probe) is None and probe not in row.failures for probe in row.scores)


def _row_cells(table: EvalResult, row: Row, probes: Sequence[str]) -> list[dict[str, str]]:
    scores = [_score_cell(table, row, probe) for probe in probes]
    numbers = [_cell(f"{row.rankme:.1f}"), _cell(f"{row.feature_std:.2f}")]
    more = [_cell(percentage(row, score)) for score in table.prediction_scores]
    return [_cell(row.name), _cell(str(row.width)), *scores, *numbers, *more]


def other_table(table: EvalResult) -> dict[str, Any]:
    """An earlier table, or one of another split or encoder, with what tells it from others."""
    step = "" if table.step is None else f", step {table.step:,}"
    role = f", {table.role} encoder" if table.role else ""
    title = f"{table.split} split, {table.held_out_images:,} {table.unit}{role}{step}"
    moved = ", transfer" if table.transfer else ""
    return {
        "title": f"{title}{moved}",
        "tables": [probe_table(task) for task in table.tables],
        "evaluations": [evaluation_table(evaluation) for evaluation in table.evaluations],
    }


def evaluation_table(table: EvaluationTable) -> dict[str, Any]:
    """The cells and the caption of an evaluation that sees the model; of one that failed, the reason."""
    rows = [[_cell(row.name), *(_metric_cell(score) for score in row.scores.values())] for row in table.rows]
    return {"title": table.title, "head": ["", *table.head()[1:]], "rows": rows, "caption": table.caption()}


def _metric_cell(score: MetricScore) -> dict[str, str]:
    value, _, error = score.text().partition(" ± ")
    return _cell(value, f"± {error}" if error else "")


def _score_cell(table: EvalResult, row: Row, probe: str) -> dict[str, str]:
    score, error, points = percent(row, probe), standard_error(row, probe), gain(table, row, probe)
    if score is None:
        return _cell(NOT_COMPUTED)
    spread = "" if error is None else f"± {error:.1f}"
    return _cell(f"{score:.1f}", spread, "" if points is None else f"{points:+z.1f}")


def _cell(text: str, spread: str = "", gain: str = "") -> dict[str, str]:
    return {"text": text, "spread": spread, "gain": gain}
