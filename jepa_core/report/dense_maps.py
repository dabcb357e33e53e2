"""What is read off single patches, as pictures: sections of the report for runs whose samples have maps.

A head is fitted anew for each report, on a few training images: the pictures are to be looked at, the
numbers are those of the evaluations `depth` and `segmentation`.

Axes: n images, h × w pixels, R × C tokens of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jepa_core.assembly import build_model
from jepa_core.data.named_samples import source_fields
from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.dense.depth import fit_depth
from jepa_core.evaluate.dense.depth_scores import valid_pixels
from jepa_core.evaluate.dense.reading import DenseBatch, dense_batches, maps_of_kind
from jepa_core.evaluate.dense.segmentation import Segmentation, class_maps, fit_classes, pixel_classes
from jepa_core.evaluate.score_tables import TRAINED, TWIN
from jepa_core.jepa import JEPA
from jepa_core.plots.sheets import COLOURS, Scale, colour_map, to_bytes, to_pixels, unnormalise
from jepa_core.protocols import Source
from jepa_core.report.sections import Section
from jepa_core.settings.recipe import Recipe
from jepa_core.types.sample import Field

SHOWN, FITTED_ON, BATCH = 6, 512, 64
"""Images that are shown, training images that the heads are fitted on, images that are read together."""
COLUMNS = ("image", "truth", "read off the trained encoder", "read off random weights")
HOLE = (255, 255, 255)
"""Colour of a pixel of which nothing is known."""
CLASS_COLOURS = ("#c3c9d1", *COLOURS)
"""Grey for the first class, which is the ground more often than not."""
CELL = 1.55
"""Inches."""


def depth_maps(recipe: Recipe, model: JEPA, source: Source) -> Section | None:
    """True and read-out depth of some held-out images; None without a map of decimal numbers."""
    context = _context(recipe, model, source)
    name = None if context is None else _first_map(context, numbers=True)
    if context is None or name is None:
        return None
    fit = fit_depth(context, name)
    batch = _few_held_out(context)
    truth = batch.maps[name]
    known = valid_pixels(truth, name)
    guesses = [fit.depths(row, batch)[1] for row in (TRAINED, TWIN)]
    units = _fields(source)[name].units
    low, high = (float(truth[known].quantile(share)) for share in (0.01, 0.99)) if known.any() else (1.0, 2.0)
    scale = Scale(
        "viridis_r", low, max(high, 1.01 * low), f"depth{f' in {units}' if units else ''}, near is bright"
    )
    in_logs = replace(scale, low=math.log(low), high=math.log(scale.high))
    maps = [colour_map(values.clamp(min=low).log().cpu().numpy(), in_logs) for values in (truth, *guesses)]
    maps[0] = np.where(known.cpu().numpy()[..., None], maps[0], np.array(HOLE, dtype=np.uint8))
    says = (
        f"Images of the {context.split} split, their true depth, and the depth that a linear map reads off "
        f"the features of the patches ({fit.grid[0]} × {fit.grid[1]}, smooth in between) beside the mean of "
        f"each place, fitted on {fit.images:,} training images. Right the same with features of random "
        "weights: what the trained encoder shows beyond it, it has learned. One logarithmic scale of colours "
        "for all, from the 1st to the 99th percentile of the true depths; white: not known."
    )
    return Section("Depth, read off the patches", says, lambda: draw(_images(context, batch), maps, scale))


def segmentation_maps(recipe: Recipe, model: JEPA, source: Source) -> Section | None:
    """True and read-out classes of some held-out images; None without a map that says its classes."""
    context = _context(recipe, model, source)
    if context is None or _first_map(context, numbers=False) is None:
        return None
    maps = {name: count for name, count in class_maps(context).items() if count <= len(CLASS_COLOURS)}
    if not maps:
        return None
    name, count = next(iter(maps.items()))
    fit = fit_classes(Segmentation.Config(), context, name, count)
    batch = _few_held_out(context)
    truth = fit.labels(batch.maps[name])
    guesses = [pixel_classes(fit.logits(row, batch.tokens[row]), fit.grid, truth) for row in (TRAINED, TWIN)]
    names = _fields(source)[name].names or tuple(f"class {number}" for number in range(count))
    says = (
        f"Images of the {context.split} split, the true class of each pixel, and the class that a logistic "
        f"regression reads off the features of the patches ({fit.grid[0]} × {fit.grid[1]}, smooth in "
        f"between), fitted on {fit.drawn:,} patches of {fit.images:,} training images. Right the same with "
        "features of random weights."
    )
    palette = np.array(
        [*(to_bytes(np.array(to_rgb(colour))) for colour in CLASS_COLOURS[:count]), HOLE], np.uint8
    )
    coloured = [palette[values.cpu().numpy()] for values in (truth, *guesses)]  # -1 is the last: white
    keys = list(zip(names, CLASS_COLOURS, strict=False))
    return Section(
        "Classes, read off the patches", says, lambda: draw(_images(context, batch), coloured, keys=keys)
    )


def _fields(source: Source) -> dict[str, Field]:
    """The source's maps by name."""
    fields = source_fields(source)
    return {place.removeprefix("targets."): field for place, field in fields.items() if field.kind == "map"}


def _context(recipe: Recipe, model: JEPA, source: Source) -> EvaluationContext | None:
    """Of the encoder of the first view; None without maps, and for tokens in no grid of rows and columns."""
    if not _fields(source) or len(model.grid("target")) != 2:
        return None
    twin = build_model(recipe, model.fields)
    device = next(model.parameters()).device
    twin.to(device).eval().transforms = model.transforms
    split = _held_out(source)
    return EvaluationContext(
        recipe, model, twin, source, split, images=FITTED_ON, batch_size=BATCH, device=device
    )


def _held_out(source: Source) -> str:
    """The test split, or the validation split of data that have no test."""
    try:
        source.split("test")
    except UserError:
        return "val"
    return "test"


def _first_map(context: EvaluationContext, numbers: bool) -> str | None:
    try:
        return next(iter(maps_of_kind(context, "a section of the report", numbers)))
    except UserError:
        return None


def _few_held_out(context: EvaluationContext) -> DenseBatch:
    """The first few images of the drawn ones."""
    batch = next(iter(dense_batches(context, "a section of the report")))
    return DenseBatch(
        batch.views[:SHOWN],
        {row: tokens[:SHOWN] for row, tokens in batch.tokens.items()},
        {name: values[:SHOWN] for name, values in batch.maps.items()},
    )


def _images(context: EvaluationContext, batch: DenseBatch) -> np.ndarray[Any, Any]:
    """uint8 [n, h, w, 3]."""
    transform = context.recipe.transform
    return to_bytes(to_pixels(unnormalise(batch.views, transform.mean, transform.std)))


def draw(
    images: np.ndarray[Any, Any],
    maps: Sequence[np.ndarray[Any, Any]],
    scale: Scale | None = None,
    keys: Sequence[tuple[str, str]] = (),
) -> Figure:
    """A row for each image [h, w, 3] with its maps beside it; a colour bar, or a key of (name, colour)."""
    aspect = images.shape[1] / images.shape[2]
    below = 0.75
    height = len(images) * CELL * aspect + 0.3 + below
    figure = Figure(figsize=((1 + len(maps)) * (CELL + 0.1), height), dpi=150)
    axes = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    for row, line in enumerate(axes):
        for axis, pixels in zip(line, (images, *maps), strict=True):
            axis.imshow(pixels[row], interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=8)
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - 0.28 / height, bottom=below / height, wspace=0.05, hspace=0.05
    )
    if scale is not None:
        colours = ScalarMappable(LogNorm(scale.low, scale.high), scale.colours)
        place = figure.add_axes((0.25, 0.45 / height, 0.5, 0.12 / height))
        bar = figure.colorbar(colours, cax=place, orientation="horizontal", label=scale.label)
        ticks = np.geomspace(scale.low, scale.high, 5)
        bar.set_ticks(ticks.tolist(), labels=[f"{tick:.3g}" for tick in ticks], minor=False)
        bar.minorticks_off()
    if keys:
        handles = [Patch(color=colour, label=name) for name, colour in keys]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure
