"""What is asked of encoders (`protocols.Encoder`), in evaluation mode and fp32.

Axes: B samples, S packed tokens, N tokens of the grid, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.protocols import Encoder
from jepa_core.testing.outcomes import NotAsked, require, require_equal, untouched_randomness
from jepa_core.testing.small_parts import pick, pick_tokens, ragged, with_fillers
from jepa_core.testing.subject import Subject
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.tokens import Tokens

CLOSE = 1e-4
"""How far fp32 sums in another order may lie apart, of the largest value."""
BATCH = 3


@dataclass(frozen=True)
class EncoderCase:
    """An encoder, and views that fit it."""

    subject: Subject

    def make(self, seed: int = 0) -> Any:
        """A fresh encoder, its weights drawn from the seed."""
        torch.manual_seed(seed)
        return self.subject.component(self.subject.config).eval()

    @cached_property
    def encoder(self) -> Any:
        """One that the properties share; none of them changes it."""
        return self.make()

    def views(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        """[B, *shape] normal random."""
        return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(seed))

    def shapes(self) -> list[tuple[tuple[int, ...], Grid]]:
        """View shapes with their grids: the settings' own, and those of odd, unequal sides it takes too."""
        own = tuple(self.encoder.view_shape())
        grid = self.encoder.grid(own)
        found = [(own, grid)]
        sides = own[-len(grid) :]
        for odd in ([3, 5, 7], [5, 1, 3]):
            cells = tuple(odd[: len(grid)])
            view = tuple(side // old * new for side, old, new in zip(sides, grid, cells, strict=True))
            try:
                if self.encoder.grid((*own[: -len(grid)], *view)) == cells:
                    found.append(((*own[: -len(grid)], *view), cells))
            except UserError:  # it may refuse another size
                continue
        return found


@torch.no_grad()
def sizes(case: EncoderCase) -> None:
    """It has width, heads, depth, view_shape and grid, and its grid is whole numbers."""
    encoder = case.encoder
    require(isinstance(encoder, Encoder), "an attribute of jepa_core.protocols.Encoder is missing")
    require(min(encoder.width, encoder.heads, encoder.depth) >= 1, "width, heads and depth count from 1")
    grid = encoder.grid(encoder.view_shape())
    require(
        isinstance(grid, tuple) and all(isinstance(side, int) and side >= 1 for side in grid),
        f"a grid is a tuple of whole numbers from 1; got {grid!r}",
    )


@torch.no_grad()
def whole_views(case: EncoderCase) -> None:
    """A whole view gives features [B·N, D] of all tokens of its grid, odd and unequal sides too."""
    for shape, grid in case.shapes():
        found = case.encoder(case.views(shape))
        full = IndexSet.full(BATCH, grid_size(grid))
        _require_tokens(found, full, grid, case.encoder.width, f"of a view {shape}")


@torch.no_grad()
def ragged_sets(case: EncoderCase) -> None:
    """Sets of other lengths give features [S, D], at those sets, in their order."""
    for shape, grid in case.shapes():
        for kept in ragged(grid, BATCH).contexts:
            found = case.encoder(case.views(shape), kept)
            _require_tokens(found, kept, grid, case.encoder.width, f"of kept tokens of a view {shape}")


@torch.no_grad()
def all_kept(case: EncoderCase) -> None:
    """Keeping every token is the same as naming none."""
    shape, grid = case.shapes()[0]
    found = case.encoder(case.views(shape), IndexSet.full(BATCH, grid_size(grid)))
    require_equal(found.values, case.encoder(case.views(shape)).values, "with all tokens kept", CLOSE)


@torch.no_grad()
def batch_mates(case: EncoderCase) -> None:
    """A sample's features do not depend on the others of its batch."""
    shape, grid = case.shapes()[0]
    views, kept = case.views(shape), ragged(grid, BATCH).contexts[0]
    together = case.encoder(views, kept)
    for order in ([1], [2, 0]):
        alone = case.encoder(views[order], pick(kept, order))
        expected = pick_tokens(together, order).values
        require_equal(alone.values, expected, f"samples {order} without their batch-mates", CLOSE)


@torch.no_grad()
def fillers(case: EncoderCase) -> None:
    """Sequences that pad a batch to a fixed size (`train.cuda_graph`) change no sample's features."""
    shape, grid = case.shapes()[0]
    views, kept = case.views(shape), ragged(grid, BATCH).contexts[0]
    found = case.encoder(views, with_fillers(kept, grid_size(grid))).values
    require(len(found) == kept.total + 3, f"{kept.total + 3} rows with fillers expected, got {len(found)}")
    expected = case.encoder(views, kept).values
    require_equal(found[: kept.total], expected, "with fillers behind the samples", CLOSE)


@torch.no_grad()
def hidden_unseen(case: EncoderCase) -> None:
    """What stands at hidden tokens does not reach the features of the kept ones."""
    shape, grid = case.shapes()[0]
    sides = shape[-len(grid) :]
    if any(side % cells for side, cells in zip(sides, grid, strict=True)):
        raise NotAsked("the grid does not divide the view, so no pixel belongs to one token")
    views, kept = case.views(shape), ragged(grid, BATCH).contexts[0]
    seen = kept.mask(grid_size(grid)).view(BATCH, *grid)
    for axis, (side, cells) in enumerate(zip(sides, grid, strict=True), 1):
        seen = seen.repeat_interleave(side // cells, dim=axis)
    seen = seen.view(BATCH, *[1] * (len(shape) - len(grid)), *sides)
    other = torch.where(seen, views, case.views(shape, seed=1))
    found, expected = case.encoder(other, kept).values, case.encoder(views, kept).values
    require_equal(found, expected, "with other pixels at the hidden tokens", CLOSE)


@torch.no_grad()
def layers(case: EncoderCase) -> None:
    """`layers` gives those blocks' outputs [S, D] beside the features, which stay as they are."""
    shape, grid = case.shapes()[0]
    views, kept = case.views(shape), ragged(grid, BATCH).contexts[0]
    wanted = tuple(dict.fromkeys((1, case.encoder.depth)))
    found = case.encoder(views, kept, layers=wanted)
    require(len(found.layers) == len(wanted), f"asked for layers {wanted}, got {len(found.layers)}")
    for layer in found.layers:
        require(
            tuple(layer.shape) == (kept.total, case.encoder.width),
            f"a layer is {[kept.total, case.encoder.width]}; got {list(layer.shape)}",
        )
    require_equal(found.values, case.encoder(views, kept).values, "with layers asked for", CLOSE)


@torch.no_grad()
def repeatable(case: EncoderCase) -> None:
    """In evaluation the same view gives the same features, and nothing is drawn."""
    shape, _ = case.shapes()[0]
    with untouched_randomness():
        first, second = case.encoder(case.views(shape)), case.encoder(case.views(shape))
    require_equal(second.values, first.values, "the second time")


@torch.no_grad()
def state_is_all(case: EncoderCase) -> None:
    """A fresh encoder with the saved weights gives the same features."""
    shape, _ = case.shapes()[0]
    other = case.make(seed=1)
    other.load_state_dict(case.encoder.state_dict())
    found, expected = other(case.views(shape)), case.encoder(case.views(shape))
    require_equal(found.values, expected.values, "after loading the weights", CLOSE)


def _require_tokens(found: Tokens, at: IndexSet, grid: Grid, width: int, of: str) -> None:
    size = (at.total, width)
    require(tuple(found.values.shape) == size, f"features {of} are {size}; got {tuple(found.values.shape)}")
    require(tuple(found.grid) == tuple(grid), f"the grid {of} is {grid}; got {found.grid}")
    same = torch.equal(found.at.index, at.index) and torch.equal(found.at.lengths, at.lengths)
    require(same, f"the tokens {of} stand at other places than were kept")


CHECKS = (
    sizes,
    whole_views,
    ragged_sets,
    all_kept,
    batch_mates,
    fillers,
    hidden_unseen,
    layers,
    repeatable,
    state_is_all,
)
