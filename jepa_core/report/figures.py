"""The pictures of one run: masks, patch features, neighbours, the map; or a sentence why there is none.

A report is written for runs that went wrong too: lost data, no checkpoint yet or a method without masks
leave out the pictures that need them, and the page says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from jepa_core.assembly import build, sample_masks
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.plots.clips import by_step, masks_over, middle_frames
from jepa_core.plots.sheets import Sheet, draw_sheet, unnormalise
from jepa_core.protocols import Role, Samples, Source
from jepa_core.report.charts import map_figure, png
from jepa_core.report.cost import flops_per_image
from jepa_core.report.embeddings import few_images, look, patch_features
from jepa_core.report.neighbours import FEWEST, flat_map, neighbour_sheet
from jepa_core.report.patch_maps import pca_sheet, similarity_sheet
from jepa_core.report.sections import Section, sections
from jepa_core.report.summary import RunSummary
from jepa_core.runs.load import open_model
from jepa_core.runtime.progress import Progress
from jepa_core.settings.recipe import Recipe

FEW = 8
"""Images in a sheet."""


@dataclass
class RunFigures:
    """What there is to look at."""

    step: int | None = None
    """Of the checkpoint whose weights were looked at; None where there is none."""
    held_out: str = ""
    """The split that the images come from."""
    sheets: dict[str, Sheet] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)
    """What plugins add, by name."""
    points: np.ndarray | None = None
    """float [n, 2]: the map of the held-out images."""
    classes: Sequence[str | None] = ()
    """The class of each of them."""
    gallery: int = 0
    """Training images among which neighbours are looked for."""
    flops: float | None = None
    """Of one training step, for each image."""
    notes: list[str] = field(default_factory=list)
    """Why something is not shown."""

    def save(self, folder: Path) -> None:
        """Every picture as a PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, sheet in self.sheets.items():
            draw_sheet(sheet, folder / f"{name}.png")
        for name, section in self.sections.items():
            section.save(folder / f"{name}.png")
        if self.points is not None:
            (folder / "map.png").write_bytes(png(map_figure(self.points, self.classes, legend=True)))


def shown(story: RunSummary, role: Role, images: int, progress: Progress) -> RunFigures:
    """Looks at a run's newest checkpoint through `images` images of each split."""
    seen = RunFigures()
    try:
        recipe, model, seen.step = open_model(story.folder)
    except UserError as error:
        seen.notes.append(f"There are no pictures of features: {error}.")
        return seen
    _attempt(seen, lambda: _masks(seen, recipe, model))
    _attempt(seen, lambda: _looks(seen, recipe, model, role, images, progress))
    seen.sections, notes = sections(recipe, model)
    seen.notes += notes
    if story.trained:
        seen.flops = flops_per_image(model, recipe)
    return seen


def _attempt(seen: RunFigures, part: Callable[[], None]) -> None:
    """A part of the page, or a note of what the user would have to mend to get it."""
    try:
        part()
    except UserError as error:
        note = f"Pictures are left out: {error}."
        if note not in seen.notes:
            seen.notes.append(note)


def _masks(seen: RunFigures, recipe: Recipe, model: JEPA) -> None:
    grid = model.grid()
    plan = sample_masks(model, FEW, recipe.seed)
    if plan.empty:
        seen.notes.append("There are no pictures of masks: this method hides nothing.")
    elif len(grid) not in (2, 3):
        seen.notes.append(f"Masks are drawn on grids (H, W) and (T, H, W); this encoder's is {grid}.")
    else:
        samples = build("data", recipe.data).split("train")
        images = few_images(model, samples, recipe.transform, FEW)
        plan = sample_masks(model, len(images), recipe.seed)
        real = unnormalise(images, recipe.transform.mean, recipe.transform.std)
        seen.sheets["masks"] = masks_over(real, plan, grid, FEW)


def _looks(
    seen: RunFigures, recipe: Recipe, model: JEPA, role: Role, images: int, progress: Progress
) -> None:
    source: Source = build("data", recipe.data)
    seen.held_out, held_out = _first_split(source, ("test", "val", "train"))
    if len(model.grid()) in (2, 3):
        _patches(seen, recipe, model, held_out, role)
    else:
        seen.notes.append(
            f"Patches are shown on grids (H, W) and (T, H, W); this encoder's is {model.grid()}."
        )
    queries = look(model, held_out, recipe.transform, seen.held_out, role, images, progress)
    gallery = look(model, source.split("train"), recipe.transform, "train", role, images, progress)
    seen.sheets["neighbours"] = neighbour_sheet(queries, gallery, FEW)
    seen.gallery = len(gallery.values)
    seen.classes = [queries.class_of(index) for index in range(len(queries.values))]
    if len(seen.classes) < FEWEST:
        seen.notes.append(f"A map needs {FEWEST} images; the {seen.held_out} split has {len(seen.classes)}.")
        return
    progress.begin("a map of the features", None)
    seen.points = flat_map(queries.values)


def _patches(seen: RunFigures, recipe: Recipe, model: JEPA, samples: Samples, role: Role) -> None:
    images = few_images(model, samples, recipe.transform, FEW)
    features = patch_features(model, images, role)
    if not torch.isfinite(features).all():
        raise UserError("the features are not finite: the encoder has diverged")
    real, grid = unnormalise(images, recipe.transform.mean, recipe.transform.std).cpu(), model.grid()
    if len(grid) == 3:
        real, features, grid = middle_frames(real, grid[0]), by_step(features, grid), grid[1:]
    for sheet in (pca_sheet, similarity_sheet):
        made = sheet(real[:FEW], features[:FEW], grid)
        seen.sheets[made.name] = made


def _first_split(source: Source, names: Sequence[str]) -> tuple[str, Samples]:
    """The first of these splits that the data have. Raises the first one's UserError where they have none."""
    said: list[UserError] = []
    for name in names:
        try:
            return name, source.split(name)
        except UserError as error:
            said.append(error)
    raise said[0]
