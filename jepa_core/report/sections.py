"""Sections that plugins add to a report: a figure, pictures with captions or a table, with a text.

A plugin offers functions through the hook `jepa_sections`. Each is called with the run's recipe, its model in
evaluation mode and its source of data, and returns a `Section`, or None where it has nothing to show.

What is unusual: the functions are foreign code that runs after hours of training, so a function that raises
anything, SystemExit too, loses its own section and nothing else, and the size of its figure is limited.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib import rc_context
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jepa_core import plugins
from jepa_core.assembly import build
from jepa_core.errors import UserError
from jepa_core.report.charts import THEMED, png, themed_svg
from jepa_core.report.picture_grid import (
    Picture,
    TextTable,
    check_pictures,
    check_table,
    grid_markup,
    grid_png,
    table_markup,
)
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.plugin_calls import PluginError, call_plugin

if TYPE_CHECKING:
    from jepa_core.jepa import JEPA
    from jepa_core.protocols import Source
    from jepa_core.settings.recipe import Recipe

log = logging.getLogger("jepa")

MAX_INCHES = 40.0
"""Of a figure's longer side."""
MAX_PIXELS = 30e6
"""Of its PNG."""
MAX_POINTS = 20_000
"""Points of a figure that are drawn as SVG; a figure of more is put on the page as a PNG."""
MAX_SVG = 600_000
"""Characters of SVG; a longer one is replaced by a PNG."""


@dataclass(frozen=True)
class Section:
    """A heading, a text that says what is to be seen, and at least one of: a figure, pictures, a table.

    `draw` makes a figure about 7 inches wide. Drawn in the colours `INK`, `FAINT`, `GRID` and `SERIES` of
    `jepa_core.plots.curves` it follows the page's light or dark style. `pictures` stand `columns` side by
    side, each with its lines of text below it (`jepa_core.report.picture_grid`), before the `table`.
    """

    title: str
    says: str
    draw: Callable[[], Figure] | None = None
    pictures: Sequence[Picture] = ()
    columns: int = 4
    table: TextTable | None = None

    def figure(self) -> Figure:
        """The figure. Raises ValueError for what is no figure, and for one that is too large to keep."""
        if self.draw is None:
            raise ValueError("it draws no figure")
        with rc_context(THEMED):
            figure = self.draw()
        if not isinstance(figure, Figure):
            raise ValueError(f"its `draw` gives {type(figure).__name__}; expected a matplotlib Figure")
        width, height = (float(side) for side in figure.get_size_inches())
        if max(width, height) > MAX_INCHES or width * height * figure.dpi**2 > MAX_PIXELS:
            raise ValueError(
                f"its figure is {width:g} × {height:g} inches at {figure.dpi:g} dpi; expected at most "
                f"{MAX_INCHES:g} inches a side and {MAX_PIXELS / 1e6:g} million pixels"
            )
        return figure


@dataclass(frozen=True)
class DrawnSection:
    """A section whose figure is drawn."""

    title: str
    says: str
    markup: str
    """For the page."""
    png: bytes
    """Of its figure or pictures; empty where there are none."""


MakeSection = Callable[["Recipe", "JEPA", "Source"], Section | None]
"""What a plugin offers: see the hook `jepa_sections`."""


@torch.no_grad()
def sections(recipe: Recipe, model: JEPA, salt: str = "") -> tuple[dict[str, DrawnSection], list[str]]:
    """Every section of a run by name, drawn, and a line for each that is missing because of an error.

    `salt` keeps the names inside the drawings apart from those of other runs on the page.
    """
    drawn: dict[str, DrawnSection] = {}
    notes: list[str] = []
    training = model.training
    model.eval()
    try:
        for name, make in plugins.registry().sections().items():
            try:
                section = call_plugin(make_section, make, recipe, model, f"{salt} {name}")
            except PluginError as error:  # the other sections do without it
                text = error.message if isinstance(error.raised, UserError) else str(error)
                notes.append(f"The section {name} is left out: {text}.")
                continue
            if section is not None:
                drawn[name] = section
    finally:
        model.train(training)
    return drawn, notes


def make_section(make: MakeSection, recipe: Recipe, model: JEPA, salt: str) -> DrawnSection | None:
    """One section, drawn; None where it has nothing to show. Raises whatever the plugin's code raises."""
    section = make(recipe, model, build("data", recipe.data))
    return None if section is None else draw_section(section, salt)


def draw_section(section: Section, salt: str, figure_png: bytes = b"") -> DrawnSection:
    """Draws a section; `figure_png` is its figure where that was drawn before.

    Raises ValueError for what is no section, and whatever its `draw` raises.
    """
    if not isinstance(section, Section):
        raise ValueError(f"it is of the type {type(section).__name__}; expected a Section, or None")
    if not (section.draw or figure_png or section.pictures or section.table):
        raise ValueError("it has neither a figure, nor pictures, nor a table")
    parts, image = [png_markup(figure_png)] if figure_png else [], figure_png
    if section.draw is not None:
        figure = section.figure()
        parts.append(figure_markup(figure, salt))
        image = png(figure)
    if section.pictures:
        check_pictures(section.pictures, section.columns)
        parts.append(grid_markup(section.pictures, section.columns))
        image = image or grid_png(section.pictures, section.columns)
    if section.table is not None:
        check_table(section.table)
        parts.append(table_markup(section.table))
    return DrawnSection(str(section.title), str(section.says), "".join(parts), image)


def figure_markup(figure: Figure, salt: str) -> str:
    """A figure for the page: SVG, or an `<img>` with a PNG where the SVG would be very long."""
    if points_of(figure) <= MAX_POINTS:
        svg = themed_svg(figure, salt)
        if len(svg) <= MAX_SVG:
            return svg
    return png_markup(png(figure))


def png_markup(image: bytes) -> str:
    """A PNG for the page."""
    return f'<img src="data:image/png;base64,{base64.b64encode(image).decode()}" alt="">'


def points_of(figure: Figure) -> int:
    """How many points the lines and collections of a figure have."""
    lines: list[Any] = figure.findobj(Line2D)
    collections: list[Any] = figure.findobj(Collection)
    return sum(len(line.get_xdata()) for line in lines) + sum(
        max(len(collection.get_offsets()), sum(len(path.vertices) for path in collection.get_paths()))
        for collection in collections
    )


def file_name(name: str) -> str:
    """A section's name as that of a file: only letters, digits, `.`, `-` and `_`, and no leading dot."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".")[:80] or "_"


def save_sections(drawn: dict[str, DrawnSection], folder: Path) -> None:
    """Writes a PNG of every section. Raises OSError where the folder cannot be written."""
    for name, section in drawn.items():
        if section.png:
            atomic_write(folder / f"{file_name(name)}.png", section.png)


def draw_sections(recipe: Recipe, model: JEPA, folder: Path) -> None:
    """Writes a PNG of every section to `folder`, which is made if there is one.

    What is missing is logged as a warning; nothing is raised, for this is called when a training ends.
    """
    drawn, notes = sections(recipe, model)
    for note in notes:
        log.warning("%s", note)
    try:
        if any(section.png for section in drawn.values()):
            folder.mkdir(exist_ok=True)
        save_sections(drawn, folder)
    except OSError as error:
        log.warning("The pictures of sections cannot be written to %s: %s.", folder, error.strerror)
