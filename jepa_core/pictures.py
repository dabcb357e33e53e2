"""Pictures of a run for people: masks drawn over real images, and the curves of the training log.

What is unusual: figures are made on a canvas of their own (no pyplot, no window, no global state), so
they work without a display and beside a notebook. Colours are told apart by colour-blind eyes and in
print (Okabe & Ito 2008).

Axes: B images, H × W tokens of the grid, N = H·W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.metrics import read_metrics
from jepa_core.types import Grid, IndexSet, MaskPlan

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 160}


def unnormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images [B, C, H, W] back from `(x - mean) / std` to values 0 … 1, for `draw_masks`."""
    shape = (1, -1, 1, 1)
    return (images * images.new_tensor(std).view(shape) + images.new_tensor(mean).view(shape)).clamp(0, 1)


def draw_masks(images: Tensor, plan: MaskPlan, grid: Grid, path: Path | str, most: int = 8) -> None:
    """A PNG with the first `most` images: as they are, what each context sees, and the target blocks.

    `images` [B, C, H, W] with C 1 or 3, float 0 … 1 or uint8; `grid` is the (H, W) token grid of `plan`.
    Raises UserError where the grid does not divide the images, the images are normalised, or images and
    plan speak of different batch sizes.
    """
    _check(images, plan, grid)
    count, rows = min(most, len(images)), 2 + len(plan.contexts)
    pixels = _pixels(images[:count])
    with rc_context(_STYLE):
        figure = Figure(figsize=(0.8 + 1.3 * count, 0.4 + 1.42 * rows), layout="constrained")
        axes = figure.subplots(rows, count, squeeze=False)
        for b in range(count):
            _show(axes[0, b], pixels[b])
            for row, context in enumerate(plan.contexts, start=1):
                _draw_context(axes[row, b], pixels[b], _keep(context, b, grid))
            _draw_targets(axes[-1, b], pixels[b], [_keep(target, b, grid) for target in plan.targets])
        _name_rows(axes, plan, grid)
        _legend(figure, len(plan.targets))
        figure.savefig(path, format="png")


def _check(images: Tensor, plan: MaskPlan, grid: Grid) -> None:
    if len(grid) != 2:
        raise UserError(f"masks are drawn on grids (H, W); got {grid}")
    if images.dtype != torch.uint8 and (images.min() < 0 or images.max() > 1):
        raise UserError(
            f"images to draw are uint8, or float from 0 to 1; got {images.min():.2f} … {images.max():.2f}. "
            "unnormalise(images, mean, std) brings normalised ones back"
        )
    if images.shape[2] % grid[0] or images.shape[3] % grid[1]:
        raise UserError(f"a grid {grid} does not divide images of {images.shape[2]}×{images.shape[3]} pixels")
    if plan.empty or plan.batch_size != len(images):
        raise UserError(f"a plan for {len(images)} images is needed; got one for {plan.batch_size}")


def _pixels(images: Tensor) -> np.ndarray:
    """float [B, H, W, 3] in 0 … 1."""
    images = images.detach().cpu()
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _keep(tokens: IndexSet, sample: int, grid: Grid) -> np.ndarray:
    """bool [H, W]: the tokens of one sample."""
    return tokens.mask(math.prod(grid))[sample].view(grid).cpu().numpy()


def _spread(keep: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """bool [H, W] on tokens to bool on pixels."""
    height, width = pixels.shape[0] // keep.shape[0], pixels.shape[1] // keep.shape[1]
    return keep.repeat(height, 0).repeat(width, 1)


def _show(axis: Axes, pixels: np.ndarray) -> None:
    axis.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _draw_context(axis: Axes, pixels: np.ndarray, keep: np.ndarray) -> None:
    """Hidden patches go to a flat grey with a trace of the image; visible ones stay as they are."""
    seen = _spread(keep, pixels)[..., None]
    _show(axis, np.where(seen, pixels, 0.55 + 0.12 * (pixels - 0.5)))
    axis.set_xlabel(f"{keep.sum()} of {keep.size} seen", labelpad=2)


def _draw_targets(axis: Axes, pixels: np.ndarray, targets: Sequence[np.ndarray]) -> None:
    """What nobody predicts is faded; every block has an outline, its neighbours' drawn further inside."""
    union = np.logical_or.reduce(targets) if targets else np.ones((1, 1), bool)
    _show(axis, np.where(_spread(union, pixels)[..., None], pixels, 0.5 + 0.5 * pixels))
    for j, keep in enumerate(targets):
        colour = _COLOURS[j % len(_COLOURS)]
        cell = pixels.shape[0] / keep.shape[0], pixels.shape[1] / keep.shape[1]
        inset = 0.04 + 0.055 * (j % len(_COLOURS))
        lines = [[(x * cell[1], y * cell[0]) for x, y in edge] for edge in outline(keep, inset)]
        axis.add_collection(LineCollection(lines, colors=colour, linewidths=1.6, capstyle="projecting"))
    sizes = [int(keep.sum()) for keep in targets] or [0]
    span = str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)}–{max(sizes)}"
    axis.set_xlabel(f"{span} {'each' if len(sizes) > 1 else 'hidden'}", labelpad=2)


def outline(keep: np.ndarray, inset: float = 0.0) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Edges ((x, y), (x, y)), in cells, between the kept and the other cells of bool [H, W].

    `inset` moves each edge into its kept cell by that share of a cell, so that equal blocks stay apart.
    """
    padded = np.pad(keep, 1)
    edges = []
    for y, x in np.argwhere(keep):
        above, below = padded[y, x + 1], padded[y + 2, x + 1]
        left, right = padded[y + 1, x], padded[y + 1, x + 2]
        x0, x1 = x + (0 if left else inset), x + 1 - (0 if right else inset)
        y0, y1 = y + (0 if above else inset), y + 1 - (0 if below else inset)
        sides = {((x0, y0), (x1, y0)): above, ((x0, y1), (x1, y1)): below}
        sides |= {((x0, y0), (x0, y1)): left, ((x1, y0), (x1, y1)): right}
        edges += [edge for edge, inner in sides.items() if not inner]
    return edges


def _name_rows(axes: np.ndarray, plan: MaskPlan, grid: Grid) -> None:
    several = len(plan.contexts) > 1
    contexts = [f"context {i + 1}" if several else "context" for i in range(len(plan.contexts))]
    for axis, name in zip(axes[:, 0], ["image", *contexts, "targets"], strict=True):
        axis.set_ylabel(name, fontsize=10)
    axes[0, 0].figure.suptitle(
        f"What is visible and what is to be predicted: {grid[0]}×{grid[1]} patches", fontsize=10
    )


def _legend(figure: Figure, targets: int) -> None:
    colours = [_COLOURS[j % len(_COLOURS)] for j in range(targets)]
    handles = [
        Patch(fill=False, edgecolor=c, linewidth=1.6, label=f"target {j + 1}") for j, c in enumerate(colours)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(targets, 8), frameon=False)


@dataclass(frozen=True)
class _Panel:
    key: str
    title: str
    from_zero: bool = True
    noisy: bool = True
    """A measured series, which gets a running mean when it is long; a schedule is drawn as it is."""


_PANELS = (
    _Panel("loss", "loss", from_zero=False),
    _Panel("retrieval", "prediction retrieval (top-1)"),
    _Panel("rankme", "RankMe"),
    _Panel("feature_std", "feature std"),
    _Panel("val_knn", "kNN on validation (top-1)"),
    _Panel("lr", "learning rate", noisy=False),
    _Panel("momentum", "target momentum", from_zero=False, noisy=False),
)
"""What is drawn, where the log has it."""


def draw_curves(metrics: Path | str, path: Path | str) -> None:
    """A PNG of the curves in `metrics.jsonl` (one JSON object a line, with `step`), one panel each.

    The chance level of prediction retrieval is a dashed line, where the log has `retrieval_chance`.
    A resumed run's log may repeat steps: the later line counts. A last line cut short is left out.
    Raises UserError where the log holds nothing to draw.
    """
    lines = read_metrics(metrics)
    panels = [panel for panel in _PANELS if any(_number(line.get(panel.key)) for line in lines)]
    if not panels:
        known = ", ".join(panel.key for panel in _PANELS)
        raise UserError(f"{metrics} holds nothing to draw; a log has lines with `step` and some of: {known}")
    columns = min(4 if len(panels) > 6 else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.1 * columns, 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_curve(axis, panel, lines)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        figure.savefig(path, format="png")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _draw_curve(axis: Axes, panel: _Panel, lines: Sequence[dict[str, Any]]) -> None:
    steps, values = _series(lines, panel.key)
    smooth = _running_mean(values) if panel.noisy else None
    if smooth is not None:
        axis.plot(steps, values, color=_COLOURS[1], linewidth=0.8, alpha=0.3)
    axis.plot(steps, values if smooth is None else smooth, color=_COLOURS[1], linewidth=1.6)
    chances = _series(lines, f"{panel.key}_chance")
    if len(chances[0]):
        axis.plot(*chances, color="0.4", linestyle="--", linewidth=1)
        patch = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
        end = chances[0][-1], chances[1][-1]
        axis.annotate("chance", end, ha="right", va="bottom", color="0.4", bbox=patch)
    if panel.from_zero:
        axis.set_ylim(bottom=0)
    axis.set_title(panel.title, loc="left", fontsize=10)
    axis.set_xlabel("optimizer step")
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.ticklabel_format(axis="y", useOffset=False)


def _series(lines: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric."""
    points = [(line["step"], line[key]) for line in lines if _number(line.get(key))]
    pairs = np.array(points, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _running_mean(values: np.ndarray) -> np.ndarray | None:
    """A centred mean over a twentieth of a long series, shorter at the ends; None for a short one."""
    half = len(values) // 40
    if half < 1:
        return None
    sums = np.concatenate([[0.0], values.cumsum()])
    place = np.arange(len(values))
    start, stop = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)
