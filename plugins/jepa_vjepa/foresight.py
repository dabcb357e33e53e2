"""What is predicted against what is there, step by step in time: a section of the report, for clips.

What is unusual: features of a place have a large part that all clips share, and any two of them are alike.
So the mean over the clips is taken away at each place before features are compared. Beside the prediction
stand two guesses that need no understanding: the true feature of the nearest token that is visible (the same
place a step ago, where the past is visible), and the prediction for another time at the same place.

Axes: B clips, T time steps of the grid, N = T·H·W tokens, S hidden tokens of a pair, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from jepa_core.assembly import sample_masks
from jepa_core.data import eval_loader
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.plots.curves import FAINT, GRID, SERIES
from jepa_core.protocols import Samples, Source
from jepa_core.recipes import Recipe
from jepa_core.report.sections import Section
from jepa_core.types import Batch, Grid, IndexSet, MaskPlan, Tokens, grid_size

CLIPS = 64
GUESSES = ("prediction", "copy of the nearest visible token", "prediction for another time")


@dataclass(frozen=True)
class Course:
    """One guess over time: cosine with the truth and its standard error over clips, each float [T], nan where
    nothing is hidden."""

    mean: Tensor
    error: Tensor


def foresight(recipe: Recipe, model: JEPA, source: Source) -> Section | None:
    """The section of a run on clips; None for images, for methods without masks, and for one time step."""
    shape, grid = model.encoder.view_shape(), model.grid()
    plan = sample_masks(model, 1, recipe.seed)
    if len(shape) != 4 or len(grid) != 3 or grid[0] < 2 or plan.empty:
        return None
    split, samples = held_out(source)
    views, _ = next(iter(eval_loader(samples, recipe.transform, shape, CLIPS, 0, CLIPS)))
    views = views.to(next(model.parameters()).device)
    plans = {
        "hidden as in training": sample_masks(model, len(views), recipe.seed),
        "the first half visible": future_plan(plan, grid, len(views)),
    }
    courses = {name: compare(model, views, plan) for name, plan in plans.items()}
    says = (
        "Cosine of predicted with true target features, for each time step of the grid; mean over the hidden "
        f"tokens of {len(views)} clips of the {split} split, ± one standard error over clips. At each place "
        "the mean over the clips is taken away first, so that what all clips share counts for nothing: 0 is "
        "no knowledge of the clip. Right: only the past is visible, which no step of this run's training may "
        "have asked for."
    )
    return Section("What is predicted, over time", says, lambda: draw(courses))


def held_out(source: Source) -> tuple[str, Samples]:
    """The test split, or the validation split of data that have no test."""
    try:
        return "test", source.split("test")
    except UserError:
        return "val", source.split("val")


def future_plan(like: MaskPlan, grid: Grid, clips: int) -> MaskPlan:
    """The first half of all time steps visible, the rest hidden; sets and pairs as many as `like` has."""
    tokens, seen = grid_size(grid), grid[0] // 2 * grid_size(grid[1:])
    index = torch.arange(tokens).expand(clips, -1)
    context, target = IndexSet.from_dense(index[:, :seen]), IndexSet.from_dense(index[:, seen:])
    return MaskPlan((context,) * len(like.contexts), (target,) * len(like.targets), like.pairs)


def compare(model: JEPA, views: Tensor, plan: MaskPlan) -> Mapping[str, Course]:
    """Each guess over time. `views` [B, C, T, H, W], normalised."""
    step = model.run_stages(Batch({"video": views}), plan.to(views.device))
    assert step.target_tokens is not None
    truth = model.normalise(step.target_tokens).dense().float()
    scores = [
        pair_scores(prediction, truth, step.plan.contexts[i])
        for prediction, (i, _) in zip(step.predictions, step.plan.pairs, strict=True)
    ]
    grid = step.predictions[0].grid
    return {name: course([score[name] for score in scores], grid) for name in GUESSES}


def pair_scores(prediction: Tokens, truth: Tensor, visible: IndexSet) -> Mapping[str, Tensor]:
    """Cosine with the truth [B, N] of each guess for the hidden tokens of a pair; nan elsewhere.

    `truth` [B, N, D] are the target features of the whole grid.
    """
    tokens = truth.shape[1]
    sample, place = prediction.at.samples, prediction.at.index
    centre = truth.mean(0)
    guess = torch.full_like(truth, torch.nan)
    guess[sample, place] = prediction.values.float() - centre[place]
    exact = truth - centre
    near = nearest_visible(visible.mask(tokens), prediction.grid)
    copied = exact.gather(1, near[..., None].expand_as(exact))
    hidden = guess.isfinite().all(2)
    later = another_time(hidden, prediction.grid)
    moved = guess.gather(1, later.clamp(min=0)[..., None].expand_as(guess))
    guesses = {
        "prediction": (guess, hidden),
        "copy of the nearest visible token": (copied, hidden),
        "prediction for another time": (moved, hidden & (later >= 0)),
    }
    return {
        name: torch.where(where, F.cosine_similarity(values, exact, dim=2), torch.nan)
        for name, (values, where) in guesses.items()
    }


def nearest_visible(visible: Tensor, grid: Grid) -> Tensor:
    """int64 [B, N]: for every token the nearest one that is `visible` [B, N], in steps of the grid."""
    axes = [torch.arange(side, device=visible.device, dtype=torch.float32) for side in grid]
    places = torch.cartesian_prod(*axes)
    distance = torch.cdist(places, places)
    rows = [distance.masked_fill(~keep, torch.inf).argmin(1) for keep in visible]
    return torch.stack(rows)


def another_time(hidden: Tensor, grid: Grid) -> Tensor:
    """int64 [B, N]: the next token hidden at the same place, round to the first; -1 where there is none."""
    steps, places = grid[0], grid_size(grid[1:])
    hidden = hidden.view(-1, steps, places)
    time = torch.arange(steps, device=hidden.device)
    following = torch.full(hidden.shape, -1, dtype=torch.long, device=hidden.device)
    for ahead in range(steps - 1, 0, -1):  # the nearest is written last
        there = (time + ahead) % steps
        index = (there * places)[:, None] + torch.arange(places, device=hidden.device)
        following = torch.where(hidden[:, there], index, following)
    return following.flatten(1)


def course(scores: list[Tensor], grid: Grid) -> Course:
    """The mean over hidden tokens of each clip and step, then over clips; `scores` [B, N] of each pair."""
    by_clip = torch.stack(scores).unflatten(2, (grid[0], -1)).nanmean((0, 3))
    count = by_clip.isfinite().sum(0)
    mean = by_clip.nanmean(0)
    spread = (by_clip - mean).square().nanmean(0).sqrt()
    return Course(mean.cpu(), (spread / (count - 1).clamp(min=1).sqrt()).cpu())


def draw(courses: Mapping[str, Mapping[str, Course]]) -> Figure:
    """A panel for each way of hiding, a line for each guess."""
    figure = Figure(figsize=(7.2, 2.9))
    axes = figure.subplots(1, len(courses), sharey=True, squeeze=False)[0]
    for axis, (title, guesses) in zip(axes, courses.items(), strict=True):
        for number, (name, line) in enumerate(guesses.items()):
            time = torch.arange(1, len(line.mean) + 1)
            beside = time + 0.07 * (number - 1)  # guesses that agree stay apart
            style: Any = {"color": SERIES[number], "marker": "o", "markersize": 4, "capsize": 2}
            axis.errorbar(beside, line.mean, line.error, label=name, **style)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("time step of the grid", color=FAINT)
        axis.set_xlim(0.6, len(time) + 0.4)
        axis.set_xticks(range(1, len(time) + 1))
        axis.axhline(0, color=FAINT, linewidth=0.8, linestyle="--")
        axis.tick_params(colors=FAINT)
        axis.spines[:].set_color(FAINT)
        axis.grid(axis="y", color=GRID, linewidth=0.6)
    axes[0].set_ylabel("cosine with the truth", color=FAINT)
    figure.subplots_adjust(left=0.09, right=0.99, top=0.9, bottom=0.3, wspace=0.08)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(GUESSES), frameon=False)
    return figure
