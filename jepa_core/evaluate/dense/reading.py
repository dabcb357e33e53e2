"""Tokens on their grid and maps of pixels, batch by batch: what all dense evaluations start from.

Axes: B images, N = R·C tokens of the grid of R rows and C columns, D width, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from jepa_core.data.named_samples import source_fields
from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.nn.sincos import sincos
from jepa_core.types.sample import Field

PIXELS = "raw patch pixels"
PIXEL_SIDE = 8
"""Raw patches are averaged down to at most this many pixels a side."""
PLACE_WIDTH = 64
"""Numbers of the sine-cosine code of a patch's place that stand beside its pixels."""

Encode = Callable[[Tensor], Tensor]
"""Views [B, 3, H, W] to features of tokens [B, N, D]."""


@dataclass(frozen=True, eq=False)
class DenseBatch:
    """The tokens of a batch of images by row of the table, float32 [B, N, D], and its maps [B, H, W]."""

    views: Tensor
    tokens: Mapping[str, Tensor]
    maps: Mapping[str, Tensor]

    @property
    def images(self) -> int:
        """B."""
        return len(self.views)


def map_fields(context: EvaluationContext, evaluation: str) -> dict[str, Field]:
    """The source's maps by name. Raises UserError, in the name of the evaluation, where it has none."""
    fields = source_fields(context.source)
    maps = {place.removeprefix("targets."): field for place, field in fields.items() if field.kind == "map"}
    if not maps:
        targets = [place for place in fields if place.startswith("targets.")]
        raise UserError(
            f"{evaluation} needs a map of the pixels among the targets, a field of the kind map; this source "
            f"has {', '.join(targets) or 'no targets'}"
        )
    return maps


def maps_of_kind(context: EvaluationContext, evaluation: str, numbers: bool) -> dict[str, Field]:
    """Those maps that hold decimal numbers, or classes (whole numbers), by the first batch.

    Raises UserError where there are none of the kind.
    """
    fields = map_fields(context, evaluation)
    batch = next(iter(context.batches()))
    chosen = {name: f for name, f in fields.items() if batch.targets[name].is_floating_point() == numbers}
    if not chosen:
        wanted, others = ("decimal", "whole") if numbers else ("whole", "decimal")
        raise UserError(
            f"{evaluation} takes a map of {wanted} numbers; this source has maps of {others} numbers alone: "
            f"{', '.join(fields)}"
        )
    return chosen


def token_grid(context: EvaluationContext, evaluation: str) -> tuple[int, int]:
    """(R, C) of the judged encoder. Raises UserError for tokens that are no grid of rows and columns, and for
    an encoder that does not read the first view, which the maps belong to."""
    if context.model.view_of(context.role) is not None:
        raise UserError(f"{evaluation} asks for the encoder of the first view; got the role {context.role!r}")
    grid = context.model.grid(context.role)
    if len(grid) != 2:
        raise UserError(
            f"{evaluation} takes an encoder whose tokens are a grid of rows and columns; that of this one "
            f"is {tuple(grid)}"
        )
    return grid[0], grid[1]


def dense_batches(
    context: EvaluationContext, evaluation: str, split: str | None = None
) -> Iterator[DenseBatch]:
    """The batches of a split with the tokens of every row: the models' and the raw patches'.

    Raises UserError as `token_grid`, and for tokens that are no finite features of this grid.
    """
    grid = token_grid(context, evaluation)
    for batch in context.batches(split):
        view = next(iter(batch.views.values()))
        tokens = {
            row: _check_tokens(model.features(view, role=context.role, pool=None), grid, evaluation)
            for row, model in context.models.items()
        }
        tokens[PIXELS] = patch_pixels(view, grid)
        maps = {name: values for name, values in batch.targets.items() if _is_map(values, view)}
        yield DenseBatch(view, tokens, maps)


def _is_map(values: object, view: Tensor) -> bool:
    return isinstance(values, Tensor) and values.shape == (len(view), *view.shape[-2:])


def _check_tokens(tokens: Tensor, grid: tuple[int, int], evaluation: str) -> Tensor:
    if tokens.dim() != 3 or tokens.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"{evaluation} takes features [B, N, D] of N = {grid[0]} x {grid[1]} tokens; the encoder gives "
            f"{list(tokens.shape)}"
        )
    if not tokens.isfinite().all():
        raise UserError("the features are not finite: the encoder has diverged")
    return tokens.float()


def patch_pixels(views: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, N, D]: the pixels of each patch, averaged down to `PIXEL_SIDE` a side, and a code of its place.

    An encoder's tokens know their places, so the pixels are told them too.
    """
    rows, columns = (
        count * min(PIXEL_SIDE, side // count) for count, side in zip(grid, views.shape[-2:], strict=True)
    )
    small = F.adaptive_avg_pool2d(views.float(), (rows, columns))
    pixels = rearrange(small, "b c (R p) (C q) -> b (R C) (c p q)", R=grid[0], C=grid[1])
    places = sincos(grid, PLACE_WIDTH, device=views.device)
    return torch.cat([pixels, places.expand(len(views), -1, -1)], -1)


def to_patches(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, H, W] as [B, N, pixels of a patch]. Raises UserError for sides that the grid does not divide."""
    if values.shape[-2] % grid[0] or values.shape[-1] % grid[1]:
        raise UserError(
            f"maps of {values.shape[-2]} x {values.shape[-1]} pixels cannot be cut into {grid[0]} x "
            f"{grid[1]} patches"
        )
    return rearrange(values, "b (R p) (C q) -> b (R C) (p q)", R=grid[0], C=grid[1])


def upsample(values: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Values of tokens [B, N, K] as a map [B, K, H, W] of this size, bilinearly between patch centres."""
    on_grid = rearrange(values, "b (R C) k -> b k R C", R=grid[0])
    return F.interpolate(on_grid, size, mode="bilinear", align_corners=False)
