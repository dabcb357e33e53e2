"""Which classes a classifier takes for which: a section of the report, and a picture in the run's folder.

Axes: n samples, C classes.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from jepa_core.data import eval_loader
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.plots.curves import INK, SERIES
from jepa_core.protocols import Samples, Source
from jepa_core.recipes import Recipe
from jepa_core.report.sections import Section
from jepa_finetune.variant import Classifier

SAMPLES, BATCH, MOST_CLASSES = 2000, 256, 20


def confusion(recipe: Recipe, model: JEPA, source: Source) -> Section | None:
    """The section of a classifier's run; None for other runs, and for more than twenty classes."""
    if not isinstance(model, Classifier) or model.config.classes > MOST_CLASSES:
        return None
    split, samples = held_out(source)
    counts = count_guesses(model, samples, recipe)
    if not counts.sum():
        return None
    names = [str(name) for name in samples.classes or ()]
    right = counts.diagonal().sum() / counts.sum()
    says = (
        f"{int(counts.sum()):,} samples of the {split} split, {right:.1%} of them right. A row is a class, a "
        "column what the model takes it for; numbers are percent of the row."
    )
    return Section("Guesses by class", says, lambda: draw(counts, names))


def held_out(source: Source) -> tuple[str, Samples]:
    """The validation split, or the test split of data that hold none out."""
    try:
        return "val", source.split("val")
    except UserError:
        return "test", source.split("test")


def count_guesses(model: Classifier, samples: Samples, recipe: Recipe) -> Tensor:
    """int64 [C, C]: how often each class (row) is taken for each (column), of a few thousand samples."""
    classes = model.config.classes
    device = next(model.parameters()).device
    counts = torch.zeros(classes * classes, dtype=torch.int64)
    loader = eval_loader(samples, recipe.transform, model.encoder.view_shape(), BATCH, 0, SAMPLES)
    for view, labels in loader:
        guesses = model.logits(view.to(device)).argmax(-1).cpu()
        pairs = (labels * classes + guesses)[labels >= 0]
        counts += torch.bincount(pairs, minlength=classes * classes)
    return counts.view(classes, classes)


def draw(counts: Tensor, names: list[str]) -> Figure:
    """The matrix [C, C] with the share of its row in each cell."""
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    classes = len(counts)
    figure = Figure(figsize=(7, 0.9 + 0.42 * classes), layout="constrained")
    axes = figure.subplots()
    for row in range(classes):
        for column in range(classes):
            share = float(shares[row, column])
            area = axes.axhspan(
                row - 0.5, row + 0.5, column / classes, (column + 1) / classes, color=SERIES[0], lw=0
            )
            area.set_alpha(0.75 * share)
            if share >= 0.005:
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=INK)
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), xlabel="guess", ylabel="class")
    axes.set_xticks(range(classes), names, rotation=40, ha="right")
    axes.set_yticks(range(classes), names)
    return figure
