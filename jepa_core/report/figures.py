"""Pictures of one run (masks, patch features, neighbours, the map), or a line that says why one is missing.

A report is written for runs that went wrong too: lost data, no checkpoint yet or a method without masks
leave out the pictures that need them, and the page says so. Models and data are read through plugins, which
may raise anything; an error costs the picture that met it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from jepa_core.assembly import build, build_model, step_masks
from jepa_core.errors import UserError, describe_error
from jepa_core.jepa import JEPA
from jepa_core.plots.clips import by_step, masks_over, middle_frames
from jepa_core.plots.sheets import Sheet, draw_sheet, unnormalise
from jepa_core.protocols import Role, Samples, Source
from jepa_core.report.charts import map_figure, png
from jepa_core.report.clusters import cluster_sheet
from jepa_core.report.cost import flops_per_image
from jepa_core.report.embeddings import (
    ImageFeatures,
    check_finite,
    few_images,
    image_features,
    patch_features,
)
from jepa_core.report.low_shot_curve import low_shot_section
from jepa_core.report.neighbours import MIN_IMAGES, flat_map, neighbour_sheet
from jepa_core.report.patch_maps import pca_sheet, similarity_sheet
from jepa_core.report.saved_sections import saved_sections
from jepa_core.report.sections import DrawnSection, draw_section, save_sections, sections
from jepa_core.report.summary import RunSummary
from jepa_core.runs.load import fields_of_run, open_model
from jepa_core.runtime.atomic_write import atomic_path, atomic_write
from jepa_core.runtime.progress import Progress
from jepa_core.settings.recipe import Recipe

IMAGES_OF_SHEET = 8


@dataclass
class RunFigures:
    """The pictures of a run and what their captions need."""

    step: int | None = None
    """Of the checkpoint whose weights were used; None where there is none."""
    held_out: str = ""
    """The split that the images come from."""
    sheets: dict[str, Sheet] = field(default_factory=dict)
    sections: dict[str, DrawnSection] = field(default_factory=dict)
    """What plugins add, and what commands left in the folder, by name."""
    points: np.ndarray | None = None
    """float [n, 2]: the map of the held-out images."""
    classes: Sequence[str | None] = ()
    """The class of each of them."""
    gallery: int = 0
    """Training images among which neighbours are searched."""
    flops: float | None = None
    """Of one training step, for each image."""
    notes: list[str] = field(default_factory=list)
    """Why something is missing."""

    def save(self, folder: Path) -> None:
        """Writes every picture as a PNG. Raises OSError where the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, sheet in self.sheets.items():
            with atomic_path(folder / f"{name}.png") as partial:
                draw_sheet(sheet, partial)
        save_sections(self.sections, folder)
        if self.points is not None:
            atomic_write(folder / "map.png", png(map_figure(self.points, self.classes, legend=True)))


def run_figures(run: RunSummary, role: Role, images: int, progress: Progress, salt: str = "") -> RunFigures:
    """The pictures of a run's newest checkpoint, from `images` images of each split.

    `salt` keeps the ids in its drawings apart from those of other runs on the page.
    """
    figures = RunFigures()
    figures.sections, figures.notes = saved_sections(run.folder, salt)
    _attempt(figures, lambda: _draw_tables(figures, run, salt))
    try:
        recipe, model, figures.step = open_model(run.folder)
    except Exception as error:  # a plugin's encoder or a damaged checkpoint; the other parts do without
        figures.notes.append(f"There are no pictures of features: {_reason(error)}.")
        return figures
    _attempt(figures, lambda: _draw_masks(figures, recipe, model))
    _attempt(figures, lambda: _draw_features(figures, recipe, model, role, images, progress))
    drawn, notes = sections(recipe, model, salt)
    figures.sections = {**drawn, **figures.sections}
    figures.notes += notes
    if run.was_trained:
        figures.flops = count_flops(recipe, model)
    return figures


def count_flops(recipe: Recipe, model: JEPA | None = None, folder: Path | None = None) -> float | None:
    """FLOPs of a training step for each image, of a fresh model of the run in `folder` where none is given;
    None where they cannot be counted."""
    try:
        if model is None:
            model = build_model(recipe, None if folder is None else fields_of_run(folder, recipe))
        return flops_per_image(model, recipe)
    except Exception:  # a plugin's parts; the page does without the number
        return None


def _attempt(figures: RunFigures, part: Callable[[], None]) -> None:
    """Makes a part of the page; an error becomes a note."""
    try:
        part()
    except Exception as error:  # plugins and files may fail in any way; the other parts go on
        note = f"Pictures are left out: {_reason(error)}."
        if note not in figures.notes:
            figures.notes.append(note)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else describe_error(error)


def _draw_tables(figures: RunFigures, run: RunSummary, salt: str) -> None:
    """Sections that are drawn from the saved tables of evaluations."""
    section = low_shot_section(run.evaluations)
    if section is not None:
        figures.sections["low_shot"] = draw_section(section, f"{salt} low_shot")


def _draw_masks(figures: RunFigures, recipe: Recipe, model: JEPA) -> None:
    grid = model.grid()
    masks = step_masks(model, recipe.seed)
    if masks.side:
        read = ", ".join(f"side.{name}" for name in masks.side)
        figures.notes.append(f"There are no pictures of masks: they follow {read} of the training samples.")
        return
    plan = masks(0, 0, IMAGES_OF_SHEET)
    if plan.empty:
        figures.notes.append("There are no pictures of masks: this method hides nothing.")
    elif len(grid) not in (2, 3):
        figures.notes.append(f"Masks are drawn on grids (H, W) and (T, H, W); this encoder's is {grid}.")
    else:
        samples = build("data", recipe.data).split("train")
        views = few_images(model, samples, recipe.transform, IMAGES_OF_SHEET)
        plan = masks(0, 0, len(views))
        images = unnormalise(views, recipe.transform.mean, recipe.transform.std)
        figures.sheets["masks"] = masks_over(images, plan, grid, IMAGES_OF_SHEET)


def _draw_features(
    figures: RunFigures, recipe: Recipe, model: JEPA, role: Role, images: int, progress: Progress
) -> None:
    source: Source = build("data", recipe.data)
    figures.held_out, held_out = _first_split(source, ("test", "val", "train"))
    grid = model.grid()
    if len(grid) in (2, 3):
        _attempt(figures, lambda: _draw_patches(figures, recipe, model, held_out, role))
    else:
        figures.notes.append(f"Patches are shown on grids (H, W) and (T, H, W); this encoder's is {grid}.")
    split = figures.held_out
    queries = image_features(model, held_out, recipe.transform, split, role, images, progress)
    train = source.split("train")
    gallery = image_features(model, train, recipe.transform, "train", role, images, progress)
    _note_labels(figures, queries, gallery)
    figures.sheets["neighbours"] = neighbour_sheet(queries, gallery, IMAGES_OF_SHEET)
    if queries.classes is None and (clusters := cluster_sheet(queries)) is not None:
        figures.sheets["clusters"] = clusters
    figures.gallery = len(gallery.values)
    figures.classes = [queries.class_of(index) for index in range(len(queries.values))]
    if len(figures.classes) < MIN_IMAGES:
        count = len(figures.classes)
        figures.notes.append(f"A map needs {MIN_IMAGES} images; the {figures.held_out} split has {count}.")
        return
    progress.begin("a map of the features", None)
    figures.points = flat_map(queries.values)


def _note_labels(figures: RunFigures, *features: ImageFeatures) -> None:
    for part in features:
        if part.unnamed_labels:
            listed = ", ".join(map(str, part.unnamed_labels[:3]))
            more = ", …" if len(part.unnamed_labels) > 3 else ""
            figures.notes.append(
                f"The {part.split} split has labels beyond its {len(part.classes or ())} classes "
                f"({listed}{more}); those images are shown without a class."
            )


def _draw_patches(figures: RunFigures, recipe: Recipe, model: JEPA, samples: Samples, role: Role) -> None:
    views = few_images(model, samples, recipe.transform, IMAGES_OF_SHEET, role)
    features, grid = patch_features(model, views, role), model.grid()
    check_finite(features)
    images: Tensor = unnormalise(views, recipe.transform.mean, recipe.transform.std).cpu()
    if len(grid) == 3:
        images, features, grid = middle_frames(images, grid[0]), by_step(features, grid), grid[1:]
    for draw in (pca_sheet, similarity_sheet):
        sheet = draw(images[:IMAGES_OF_SHEET], features[:IMAGES_OF_SHEET], grid)
        figures.sheets[sheet.name] = sheet


def _first_split(source: Source, names: Sequence[str]) -> tuple[str, Samples]:
    """The first of these splits that the data have. Raises the first one's UserError where they have none."""
    errors: list[UserError] = []
    for name in names:
        try:
            return name, source.split(name)
        except UserError as error:
            errors.append(error)
    raise errors[0]
