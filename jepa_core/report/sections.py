"""Sections that plugins add to a report: a drawing of what a run's model does, with words around it.

A plugin offers functions through the hook `jepa_sections`. Each is called with the run's recipe, its model in
evaluation mode and its source of data, and returns a `Section`, or None where it has nothing to show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from jepa_core import plugins
from jepa_core.assembly import build
from jepa_core.errors import UserError
from jepa_core.report.charts import THEMED, png, themed_svg

if TYPE_CHECKING:
    from jepa_core.jepa import JEPA
    from jepa_core.protocols import Source
    from jepa_core.settings.recipe import Recipe

log = logging.getLogger("jepa")


@dataclass(frozen=True)
class Section:
    """A heading, what is to be seen, and a figure about 7 inches wide.

    `draw` makes the figure. Drawn in the colours `INK`, `FAINT`, `GRID` and `SERIES` of
    `jepa_core.plots.curves` it follows the page's light or dark style.
    """

    title: str
    says: str
    draw: Callable[[], Figure]

    def svg(self, salt: str) -> str:
        """The figure for the page; `salt` keeps its names apart from other figures'."""
        with rc_context(THEMED):
            return themed_svg(self.draw(), salt)

    def save(self, path: Path) -> None:
        """The figure as a PNG."""
        with rc_context(THEMED):
            path.write_bytes(png(self.draw()))


Make = Callable[["Recipe", "JEPA", "Source"], Section | None]
"""What a plugin offers: see the hook `jepa_sections`."""


@torch.no_grad()
def sections(recipe: Recipe, model: JEPA) -> tuple[dict[str, Section], list[str]]:
    """Every section of a run by name, and why one is missing, where that can be mended."""
    made, notes = {}, []
    training = model.training
    model.eval()
    try:
        for name, make in plugins.registry().sections().items():
            try:
                section = make(recipe, model, build("data", recipe.data))
            except UserError as error:
                notes.append(f"The section {name} is left out: {error}.")
                continue
            if section is not None:
                made[name] = section
    finally:
        model.train(training)
    return made, notes


def draw_sections(recipe: Recipe, model: JEPA, folder: Path) -> None:
    """A PNG of every section in `folder`, which is made if there is one; what is missing is logged."""
    made, notes = sections(recipe, model)
    for note in notes:
        log.warning("%s", note)
    for name, section in made.items():
        folder.mkdir(exist_ok=True)
        section.save(folder / f"{name}.png")
