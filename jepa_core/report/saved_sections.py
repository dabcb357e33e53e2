"""Sections that a command leaves in a run's folder for its report: what a decoder drew, how a planner played.

    sections/NAME.json    title, text, pictures and table; pictures and figures as PNG in base64
    pictures/NAME.png     the figure or the pictures, for a reader of the folder

What is unusual: a run's folder may come from anywhere, so no markup is kept: a section is read back as
pictures and texts, within the limits of every other section, and the page is made from those.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from jepa_core.data.images import open_image, pillow_limits
from jepa_core.errors import UserError, describe_error
from jepa_core.report.html import film_png
from jepa_core.report.picture_grid import LARGEST, MOST_FRAMES, Line, Picture, TextTable
from jepa_core.report.sections import MAX_PIXELS, DrawnSection, Section, draw_section, file_name
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.regular_file import open_regular

SECTIONS = "sections"
PICTURES = "pictures"
LARGEST_FILE = 1 << 26
"""Bytes of a section that are read."""


def save_section(folder: Path, name: str, section: Section) -> None:
    """Leaves a section in a run's folder; it replaces an earlier one of the same name.

    Raises ValueError for a section that the report could not show, and UserError where the folder cannot be
    written.
    """
    drawn = draw_section(section, name)
    try:
        for place in (SECTIONS, PICTURES):
            (folder / place).mkdir(exist_ok=True)
        if drawn.png:
            atomic_write(folder / PICTURES / f"{file_name(name)}.png", drawn.png)
        atomic_write(folder / SECTIONS / f"{file_name(name)}.json", json.dumps(_to_table(section, drawn)))
    except OSError as error:
        raise UserError(
            f"the section {name!r} cannot be written to {str(folder)!r}: {error.strerror or error}"
        ) from error


def saved_sections(folder: Path, salt: str = "") -> tuple[dict[str, DrawnSection], list[str]]:
    """The sections that commands left in a run's folder by name, and a line for each that cannot be read.

    `salt` keeps the names inside the drawings apart from those of other runs on the page.
    """
    drawn: dict[str, DrawnSection] = {}
    notes: list[str] = []
    for file in sorted((folder / SECTIONS).glob("*.json")):
        try:
            section, figure = read_section(file)
            drawn[file.stem] = draw_section(section, f"{salt} {file.stem}", figure)
        except Exception as error:  # the file may be damaged in any way; the other parts do without it
            reason = error if isinstance(error, UserError) else describe_error(error)
            notes.append(f"The section {file.stem} is left out: {reason}.")
    return drawn, notes


def read_section(file: Path) -> tuple[Section, bytes]:
    """A section from its file, and its figure as a PNG, empty where it has none.

    Raises UserError for what is no section, in one line.
    """
    try:
        with open_regular(file) as opened:
            data = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}") from None
    try:
        if len(data) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        return _from_table(json.loads(data))
    except Exception as error:  # JSON and pictures of a stranger may be damaged in any way
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{str(file)!r} is no section of a report ({why})") from None


def _to_table(section: Section, drawn: DrawnSection) -> dict[str, Any]:
    """A section as plain values for JSON; its figure is kept as the PNG that was drawn."""
    figure = None if section.draw is None else base64.b64encode(drawn.png).decode()
    table = section.table
    return {
        "title": str(section.title),
        "says": str(section.says),
        "figure": figure,
        "columns": section.columns,
        "pictures": [_picture_to_table(picture) for picture in section.pictures],
        "table": table and {"head": list(table.head), "rows": [list(row) for row in table.rows]},
    }


def _picture_to_table(picture: Picture) -> dict[str, Any]:
    lines = [line if isinstance(line, Line) else Line(str(line)) for line in picture.lines]
    frames = picture.pixels if picture.pixels.ndim == 4 else picture.pixels[None]
    return {
        "png": base64.b64encode(film_png(frames, picture.rate)).decode(),
        "film": picture.pixels.ndim == 4,
        "rate": picture.rate,
        "lines": [[line.text, line.right] for line in lines],
    }


def _from_table(table: Mapping[str, Any]) -> tuple[Section, bytes]:
    rows, figure = table["table"], table["figure"]
    section = Section(
        str(table["title"]),
        str(table["says"]),
        pictures=[_picture_from_table(entry) for entry in table["pictures"]],
        columns=int(table["columns"]),
        table=rows and TextTable([*map(str, rows["head"])], [[*map(str, row)] for row in rows["rows"]]),
    )
    return section, b"" if figure is None else _check_figure(base64.b64decode(figure))


def _picture_from_table(entry: Mapping[str, Any]) -> Picture:
    frames = _read_png(base64.b64decode(entry["png"]))
    lines = [Line(str(text), right if isinstance(right, bool) else None) for text, right in entry["lines"]]
    return Picture(frames if entry["film"] else frames[0], lines, float(entry["rate"]))


def _open_png(data: bytes, most_pixels: int) -> Image.Image:
    """A PNG whose pixels are not yet read. Raises ValueError for another format, and what Pillow raises, such
    as DecompressionBombError for more pixels."""
    with pillow_limits(most_pixels):
        image = open_image(data)
    if image.format != "PNG":
        raise ValueError(f"a picture in the format {image.format}; expected PNG")
    return image


def _check_figure(data: bytes) -> bytes:
    """The PNG of a figure. Raises ValueError for what is none, and one that is too large to show."""
    _open_png(data, int(MAX_PIXELS)).verify()
    return data


def _read_png(data: bytes) -> np.ndarray:
    """uint8 [T, h, w, 3]: the frames of a PNG. Raises ValueError for too many or too large ones."""
    image = _open_png(data, LARGEST**2)
    if getattr(image, "n_frames", 1) > MOST_FRAMES:
        raise ValueError(f"a film of more than {MOST_FRAMES} frames")
    return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
