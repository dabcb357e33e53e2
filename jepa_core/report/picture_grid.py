"""What a section of a report can show besides a figure: pictures with lines of text below them, and a table.

For any modality: a picture may be an image, a frame, a spectrogram; its lines are captions, guesses, numbers,
each of which may be marked as right or wrong. All text is foreign and is escaped; what is too long is cut.

Axes: T frames of a film, h × w pixels of a picture.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from jepa_core.plots.sheets import STYLE
from jepa_core.report.charts import png
from jepa_core.report.html import SMALL, data_uri, film_uri

MOST_PICTURES, MOST_ROWS, MOST_FRAMES = 200, 500, 300
LONGEST = 300
"""Characters of a line or a cell that are shown."""
LARGEST = 1024
"""Pixels of a picture's longer side; a larger one is refused."""
MARKS = {True: "✓", False: "✗", None: ""}
CELL, LETTERS, LINE = 1.75, 30, 0.16
"""Of a PNG: inches of a picture's width, letters of a line of text below it, inches of such a line."""


@dataclass(frozen=True)
class Line:
    """A line of text below a picture, marked as right (✓) or wrong (✗) where that is known."""

    text: str
    right: bool | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture uint8 [h, w, 3], or a film uint8 [T, h, w, 3], and lines of text below it.

    A film plays on the page without end; where pictures stand still, as in a PNG, its middle frame is shown.
    """

    pixels: np.ndarray
    lines: Sequence[Line | str] = ()
    rate: float = 8.0
    """Frames of a film a second."""

    @property
    def still(self) -> np.ndarray:
        """uint8 [h, w, 3]: the picture, or the middle frame."""
        return self.pixels if self.pixels.ndim == 3 else self.pixels[len(self.pixels) // 2]

    def source(self) -> str:
        """As a data: URI."""
        return data_uri(self.pixels) if self.pixels.ndim == 3 else film_uri(self.pixels, self.rate)


@dataclass(frozen=True)
class TextTable:
    """A table of texts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def check_pictures(pictures: Sequence[Picture], columns: int) -> None:
    """Raises ValueError for pictures of another type or shape, and for more or larger ones than are kept."""
    if len(pictures) > MOST_PICTURES or not 1 <= columns <= 16:
        raise ValueError(
            f"it has {len(pictures)} pictures in {columns} columns; expected at most {MOST_PICTURES}, in "
            "1 to 16"
        )
    for picture in pictures:
        pixels = picture.pixels
        shape: tuple[int, ...] = pixels.shape if isinstance(pixels, np.ndarray) else ()
        right = len(shape) in (3, 4) and shape[-1] == 3 and pixels.dtype == np.uint8
        is_long = len(shape) == 4 and shape[0] > MOST_FRAMES
        if not right or 0 in shape or max(shape[-3:]) > LARGEST or is_long:
            raise ValueError(
                f"a picture is {type(pixels).__name__} {list(shape)}; expected a uint8 array [h, w, 3], or "
                f"[T, h, w, 3] of at most {MOST_FRAMES} frames, of at most {LARGEST} pixels a side"
            )
        if not 0 < picture.rate <= 100:
            raise ValueError(
                f"a film has {picture.rate:g} frames a second; expected more than 0, at most 100"
            )


def check_table(table: TextTable) -> None:
    """Raises ValueError for rows of another length than the head, and for more than are shown."""
    if len(table.rows) > MOST_ROWS or any(len(row) != len(table.head) for row in table.rows):
        raise ValueError(
            f"its table has {len(table.rows)} rows; expected at most {MOST_ROWS}, each of "
            f"{len(table.head)} cells"
        )


def read_lines(picture: Picture) -> list[Line]:
    """The lines of a picture, cut where they are too long."""
    lines = [line if isinstance(line, Line) else Line(str(line)) for line in picture.lines]
    return [Line(_cut(str(line.text)), line.right) for line in lines]


def grid_markup(pictures: Sequence[Picture], columns: int) -> Markup:
    """The pictures for the page, `columns` side by side."""
    cells = Markup().join(_cell(picture) for picture in pictures)
    return Markup('<div class="pictures" style="--columns:{}">{}</div>').format(columns, cells)


def _cell(picture: Picture) -> Markup:
    lines = read_lines(picture)
    height, width = picture.still.shape[:2]
    small = Markup(' class="small"') if max(height, width) <= SMALL else ""
    alt = "; ".join(" ".join(filter(None, (MARKS[line.right], line.text))) for line in lines)
    shown = Markup().join(_line(line) for line in lines)
    template = '<div class="cell"><img src="{}" width="{}" height="{}" alt="{}"{}>{}</div>'
    return Markup(template).format(picture.source(), width, height, alt, small, shown)


def _line(line: Line) -> Markup:
    if line.right is None:
        return Markup("<p>{}</p>").format(line.text)
    kind, words = ("right", "right: ") if line.right else ("wrong", "wrong: ")
    template = '<p class="{}"><span aria-hidden="true">{} </span><span class="unseen">{}</span>{}</p>'
    return Markup(template).format(kind, MARKS[line.right], words, line.text)


def table_markup(table: TextTable) -> Markup:
    """The table for the page."""
    head = Markup().join(Markup('<th scope="col">{}</th>').format(_cut(str(cell))) for cell in table.head)
    rows = Markup().join(
        Markup("<tr>{}</tr>").format(
            Markup().join(Markup("<td>{}</td>").format(_cut(str(cell))) for cell in row)
        )
        for row in table.rows
    )
    template = '<div class="wide" role="region" tabindex="0" aria-label="Table"><table>'
    return Markup(template + "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>").format(head, rows)


def grid_png(pictures: Sequence[Picture], columns: int) -> bytes:
    """The pictures as one PNG, for a file."""
    texts = [_wrapped_text(picture) for picture in pictures]
    rows = -(-len(pictures) // columns)
    stills = [picture.still for picture in pictures]
    tallest = max(still.shape[0] / still.shape[1] for still in stills)
    step = CELL * min(tallest, 2.0) + LINE * (1 + max(text.count("\n") + 1 for text in texts))
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * (CELL + 0.15), rows * step))
        for number, (still, text) in enumerate(zip(stills, texts, strict=True)):
            left, top = (number % columns) / columns, 1 - (number // columns) / rows
            height = CELL * min(still.shape[0] / still.shape[1], 2.0) / (rows * step)
            share = CELL / (columns * (CELL + 0.15))
            axis = figure.add_axes((left, top - height, share, height))
            axis.imshow(still, aspect="auto", interpolation="nearest")
            axis.set_axis_off()
            axis.text(0, -0.03, text, transform=axis.transAxes, va="top", fontsize=7, parse_math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts that the font has no letters of
        return png(figure)


def _wrapped_text(picture: Picture) -> str:
    lines = [" ".join(filter(None, (MARKS[line.right], line.text))) for line in read_lines(picture)]
    return "\n".join(textwrap.fill(line, LETTERS, max_lines=3, placeholder=" …") for line in lines)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
