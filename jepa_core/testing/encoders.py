"""Checks of encoders (`protocols.Encoder`), in evaluation mode and fp32.

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
from jepa_core.protocols import Encoder, ReadsKinds
from jepa_core.testing.outcomes import NotAsked, require, require_equal, untouched_randomness
from jepa_core.testing.random_views import FIELDS, ragged_view, random_view, takes, visible_elements
from jepa_core.testing.small_parts import pick, pick_tokens, ragged_plan, with_padding
from jepa_core.testing.subject import Subject
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.sample import Field
from jepa_core.types.tokens import Tokens

CLOSE = 1e-4
"""Largest difference, relative to the largest value: sums of fp32 may be taken in another order."""
BATCH = 3


@dataclass(frozen=True)
class EncoderCase:
    """An encoder, and views that fit it."""

    subject: Subject

    @property
    def field(self) -> Field | None:
        """The description of its view, of its first kind, for an encoder that says which kinds it reads."""
        component = self.subject.component
        if not (isinstance(component, ReadsKinds) and takes(component, "field")):
            return None
        return FIELDS.get(component.kinds[0])

    def make(self, seed: int = 0) -> Any:
        """A new encoder with weights drawn from the seed."""
        torch.manual_seed(seed)
        described = {} if self.field is None else {"field": self.field}
        return self.subject.component(self.subject.config, **described).eval()

    @cached_property
    def encoder(self) -> Any:
        """An encoder that all checks share; none changes it."""
        return self.make()

    def views(self, shape: Sequence[int], seed: int = 0) -> Tensor:
        """[B, *shape], random."""
        return random_view(self.field, shape, BATCH, seed)

    def shapes(self) -> list[tuple[tuple[int, ...], Grid]]:
        """(view shape, grid) of the settings, and with odd unequal sides where the encoder accepts them."""
        own = tuple(self.encoder.view_shape())
        grid = self.encoder.grid(own)
        shapes = [(own, grid)]
        if self.field is not None:
            lengths = [length for length in (5, 3) if length < own[0] and len(own) == len(self.field.shape)]
            return shapes + [((length, *own[1:]), (length,)) for length in lengths]
        sides = own[-len(grid) :]
        for sides_in_tokens in ([3, 5, 7], [5, 1, 3]):
            cells = tuple(sides_in_tokens[: len(grid)])
            view = tuple(
                side // own_tokens * tokens
                for side, own_tokens, tokens in zip(sides, grid, cells, strict=True)
            )
            try:
                if self.encoder.grid((*own[: -len(grid)], *view)) == cells:
                    shapes.append(((*own[: -len(grid)], *view), cells))
            except UserError:  # an encoder may refuse other sizes
                continue
        return shapes


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
        tokens = case.encoder(case.views(shape))
        full = IndexSet.full(BATCH, grid_size(grid))
        _require_tokens(tokens, full, grid, case.encoder.width, f"of a view {shape}")


@torch.no_grad()
def ragged_sets(case: EncoderCase) -> None:
    """Sets of other lengths give features [S, D], at those sets, in their order."""
    for shape, grid in case.shapes():
        for context in ragged_plan(grid, BATCH).contexts:
            tokens = case.encoder(case.views(shape), context)
            _require_tokens(tokens, context, grid, case.encoder.width, f"of kept tokens of a view {shape}")


@torch.no_grad()
def all_kept(case: EncoderCase) -> None:
    """Keeping every token is the same as naming none."""
    shape, grid = case.shapes()[0]
    tokens = case.encoder(case.views(shape), IndexSet.full(BATCH, grid_size(grid)))
    require_equal(tokens.values, case.encoder(case.views(shape)).values, "with all tokens kept", CLOSE)


@torch.no_grad()
def batch_mates(case: EncoderCase) -> None:
    """A sample's features do not depend on the others of its batch."""
    shape, grid = case.shapes()[0]
    views, context = case.views(shape), ragged_plan(grid, BATCH).contexts[0]
    together = case.encoder(views, context)
    for order in ([1], [2, 0]):
        alone = case.encoder(views[order], pick(context, order))
        expected = pick_tokens(together, order).values
        require_equal(alone.values, expected, f"samples {order} without their batch-mates", CLOSE)


@torch.no_grad()
def fillers(case: EncoderCase) -> None:
    """Sequences that pad a batch to a fixed size (`train.cuda_graph`) change no sample's features."""
    shape, grid = case.shapes()[0]
    views, context = case.views(shape), ragged_plan(grid, BATCH).contexts[0]
    values = case.encoder(views, with_padding(context, grid_size(grid))).values
    require(
        len(values) == context.total + 3, f"{context.total + 3} rows with fillers expected, got {len(values)}"
    )
    expected = case.encoder(views, context).values
    require_equal(values[: context.total], expected, "with fillers behind the samples", CLOSE)


@torch.no_grad()
def hidden_unseen(case: EncoderCase) -> None:
    """What stands at hidden tokens does not reach the features of the kept ones."""
    shape, grid = case.shapes()[0]
    sides = shape[-len(grid) :]
    if case.field is None and any(side % cells for side, cells in zip(sides, grid, strict=True)):
        raise NotAsked("the grid does not divide the view, so no pixel belongs to one token")
    views, context = case.views(shape), ragged_plan(grid, BATCH).contexts[0]
    visible = visible_elements(context, grid, shape, case.field)
    changed_views = torch.where(visible, views, case.views(shape, seed=1))
    actual, expected = case.encoder(changed_views, context).values, case.encoder(views, context).values
    require_equal(actual, expected, "with other input at the hidden tokens", CLOSE)


@torch.no_grad()
def ragged_views(case: EncoderCase) -> None:
    """Packed sequences of other lengths give the features that each of them has alone."""
    shape, _ = case.shapes()[-1]
    if case.field is None or case.field.kind not in ("ids", "sequence"):
        raise NotAsked("it reads views of one shape")
    lengths = [min(length, shape[0]) for length in (3, 1, 2)]
    views = ragged_view(case.views(shape), lengths)
    tokens = case.encoder(views)
    _require_tokens(tokens, views.at, views.grid, case.encoder.width, "of ragged sequences")
    alone = torch.cat([case.encoder(part[None]).values for part in views.split()])
    require_equal(tokens.values, alone, "of ragged sequences beside each alone", CLOSE)


@torch.no_grad()
def layers(case: EncoderCase) -> None:
    """`layers` gives those blocks' outputs [S, D] beside the features, which stay as they are."""
    shape, grid = case.shapes()[0]
    views, context = case.views(shape), ragged_plan(grid, BATCH).contexts[0]
    numbers = tuple(dict.fromkeys((1, case.encoder.depth)))
    tokens = case.encoder(views, context, layers=numbers)
    require(len(tokens.layers) == len(numbers), f"asked for layers {numbers}, got {len(tokens.layers)}")
    for layer in tokens.layers:
        require(
            tuple(layer.shape) == (context.total, case.encoder.width),
            f"a layer is {[context.total, case.encoder.width]}; got {list(layer.shape)}",
        )
    require_equal(tokens.values, case.encoder(views, context).values, "with layers asked for", CLOSE)


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
    loaded = case.make(seed=1)
    loaded.load_state_dict(case.encoder.state_dict())
    actual, expected = loaded(case.views(shape)), case.encoder(case.views(shape))
    require_equal(actual.values, expected.values, "after loading the weights", CLOSE)


def _require_tokens(tokens: Tokens, at: IndexSet, grid: Grid, width: int, of: str) -> None:
    size = (at.total, width)
    require(tuple(tokens.values.shape) == size, f"features {of} are {size}; got {tuple(tokens.values.shape)}")
    require(tuple(tokens.grid) == tuple(grid), f"the grid {of} is {grid}; got {tokens.grid}")
    equal = torch.equal(tokens.at.index, at.index) and torch.equal(tokens.at.lengths, at.lengths)
    require(equal, f"the tokens {of} stand at other places than were kept")


CHECKS = (
    sizes,
    whole_views,
    ragged_sets,
    all_kept,
    batch_mates,
    fillers,
    hidden_unseen,
    ragged_views,
    layers,
    repeatable,
    state_is_all,
)
