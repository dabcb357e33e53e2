"""What is decoded: the hidden patches of a batch, and what a run's model says of them.

Predictions and targets come from the engine's own stages, for masks that the run's masker draws: features of
the context encoder go through the predictor, targets come from the target encoder as the objective normalises
them. Each pair of a plan is one set: a block of multi-block, or the one target of the union masker.

Axes: B images, C channels, H × W tokens of the grid, N = H·W, p × q pixels of a patch, X = C·p·q, Q sets,
S packed hidden patches, D width of features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from jepa_core.assembly import step_masks
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.nn.identity import NoPredictor
from jepa_core.types import Batch, Grid, IndexSet, MaskPlan
from jepa_core.types.packed import Packed
from jepa_core.types.step import Step


@dataclass(frozen=True, eq=False)
class HiddenSets:
    """The hidden patches of a batch's images, set after set, and their features."""

    pixels: Tensor
    """float [S, X], normalised as the encoder's views are."""
    predicted: Tensor
    """float [S, D]."""
    target: Tensor
    """float [S, D], as the objective normalises them."""
    at: IndexSet
    """Of Q sets: all images' sets of the plan's first pair, then of the second, …"""
    count: int
    """B: Q is a multiple of it."""
    grid: Grid

    @property
    def images(self) -> Tensor:
        """int64 [Q]: the image that each set belongs to."""
        return torch.arange(self.at.batch_size, device=self.at.index.device) % self.count

    @property
    def image_of_patch(self) -> Tensor:
        """int64 [S]."""
        return self.images[self.at.segments]

    def rows_of_pairs(self) -> list[Tensor]:
        """The rows of each pair's patches, int64 [s]: in a pair no patch of an image occurs twice."""
        sizes = self.at.lengths.view(-1, self.count).sum(1)
        return list(torch.arange(self.at.total, device=self.at.index.device).split(sizes.tolist()))

    def repeat(self, times: int) -> HiddenSets:
        """The same sets, `times` times one after the other."""
        at = replace(self.at, index=self.at.index.repeat(times), lengths=self.at.lengths.repeat(times))
        pixels, predicted, target = (
            part.repeat(times, 1) for part in (self.pixels, self.predicted, self.target)
        )
        return replace(self, pixels=pixels, predicted=predicted, target=target, at=at)


@torch.no_grad()
def hidden_sets(model: JEPA, batch: Batch, plan: MaskPlan) -> HiddenSets:
    """The hidden patches of a batch by a plan, with what the model predicts of them and their targets.

    Raises UserError for the empty plan of a method without masks, and where the model's predictions are not
    of hidden patches of its image.
    """
    if plan.empty:
        raise UserError("this run's masker hides nothing, so there is nothing to decode")
    step = model.run_stages(batch, plan)
    grid = model.grid()
    _check_step(step, grid)
    sets = [tokens.at for tokens in step.predictions]
    at = IndexSet.from_lengths(
        torch.cat([own.index for own in sets]), torch.cat([own.lengths for own in sets])
    )
    patches = cut_patches(image_view(model, batch), grid)
    predicted, target = (
        torch.cat([tokens.values for tokens in group]).float() for group in (step.predictions, step.targets)
    )
    images = torch.cat([own.samples for own in sets])
    return HiddenSets(patches[images, at.index], predicted, target, at, batch.batch_size, grid)


def draw_masks(model: JEPA, batch: Batch, seed: int, number: int, rank: int = 0) -> MaskPlan:
    """The masks of batch `number`, as the run's masker draws them at the end of its training."""
    masks = step_masks(model, seed, total_steps=1)  # all steps but the first are then at the end
    return masks(number + 1, rank, batch.batch_size, batch.side).to(batch.device)


def image_view(model: JEPA, batch: Batch) -> Tensor:
    """The images [B, C, h, w] whose patches are hidden: the target's view."""
    view: Tensor = model.views(batch).target
    return view


def cut_patches(images: Tensor, grid: Grid) -> Tensor:
    """Images [B, C, h, w] as patches [B, N, X]."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", h=grid[0], w=grid[1])


def join_patches(patches: Tensor, grid: Grid, like: Tensor) -> Tensor:
    """Patches [B, N, X] as images of the size of `like` [B, C, h, w]."""
    channels, height = like.shape[1], like.shape[2] // grid[0]
    return rearrange(
        patches,
        "b (h w) (c p q) -> b c (h p) (w q)",
        h=grid[0],
        w=grid[1],
        c=channels,
        p=height,
    )


def paste(images: Tensor, decoded: Tensor, sets: HiddenSets, pairs: Sequence[Tensor]) -> Tensor:
    """Images [B, C, h, w] in which the patches in the rows of some `pairs` are decoded ones [S, X].

    Of a patch that several sets of an image have in common the later pair's is shown.
    """
    patches = cut_patches(images, sets.grid).clone()
    for rows in pairs:
        patches[sets.image_of_patch[rows], sets.at.index[rows]] = decoded[rows]
    return join_patches(patches, sets.grid, images)


def shuffle(batch: Batch) -> Batch:
    """The batch with every value moved to the next sample, the last one's to the first."""
    size = batch.batch_size
    order = [size - 1, *range(size - 1)]
    parts = {
        name: _reorder(getattr(batch, name), order)
        for name in ("views", "condition", "side", "labels", "targets")
    }
    return replace(batch, **parts)


def _reorder(value: Any, order: list[int]) -> Any:
    if isinstance(value, Tensor):
        return value[order]
    if isinstance(value, Packed):
        return value.take(order)
    if isinstance(value, Mapping):
        return {name: _reorder(inner, order) for name, inner in value.items()}
    return value if value is None else [value[row] for row in order]


def check_decodable(name: str, model: JEPA) -> None:
    """Raises UserError for a model without a predictor, and for one whose views are no images on a grid."""
    if isinstance(model.predictor, NoPredictor):
        raise UserError(f"{name!r} has no predictor (predictor.name = none), so there is nothing to decode")
    shape, grid = tuple(model.encoder.view_shape()), model.grid()
    fits = len(shape) == 3 and len(grid) == 2 and not any(s % g for s, g in zip(shape[1:], grid, strict=True))
    if not fits or model.config.several_views:
        views = "several views of a sample" if model.config.several_views else f"views {shape}"
        raise UserError(
            f"{name!r} has {views} on a grid {grid}; expected images (C, H, W) on a grid (H, W) of patches"
        )


def _check_step(step: Step, grid: Grid) -> None:
    pairs = zip(step.predictions, step.targets, strict=False)
    fits = len(step.predictions) == len(step.targets) == len(step.plan.pairs) and all(
        guess.grid == grid and guess.values.shape == truth.values.shape and guess.at.total == truth.at.total
        for guess, truth in pairs
    )
    if not fits:
        raise UserError(
            "this variant's predictions are not of the hidden patches of its image; expected a prediction "
            "and a target of one width for each of them"
        )
