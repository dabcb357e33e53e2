"""Random views and conditions of every kind that checks need: ids, vectors, sequences, images.

Axes: B samples, L elements of a sequence, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from jepa_core.types.index_set import IndexSet, grid_size
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Field

FIELDS: Mapping[str, Field] = {
    "ids": Field("ids", (None,), vocabulary=50),
    "sequence": Field("sequence", (None, 6)),
    "vector": Field("vector", (6,)),
}
"""A field of each kind that is neither image nor clip and that an encoder can be built with."""

CONDITIONS: Mapping[str, Field] = {
    "condition.ids": FIELDS["ids"],
    "condition.sequence": FIELDS["sequence"],
    "condition.vector": FIELDS["vector"],
}
"""The fields of a source with a condition of each kind, for predictors."""


def takes(component: Any, argument: str) -> bool:
    """Whether a component's constructor has an argument of this name."""
    return argument in signature(component).parameters


def random_view(field: Field | None, shape: Sequence[int], batch: int, seed: int = 0) -> Tensor:
    """[B, *shape]: ids of the field's vocabulary; for any other field, and without, normal random numbers."""
    generator = torch.Generator().manual_seed(seed)
    if field is not None and field.kind == "ids":
        return torch.randint(0, field.vocabulary or 1, (batch, *shape), generator=generator)
    return torch.randn(batch, *shape, generator=generator)


def ragged_view(dense: Tensor, lengths: Sequence[int]) -> Packed:
    """The first elements, so many of each sample, of a dense view [B, L, …]."""
    return Packed.of([row[:length] for row, length in zip(dense, lengths, strict=True)])


def random_conditions(batch: int) -> dict[str, Any]:
    """A condition of each kind by its name in `CONDITIONS`; those that are sequences are ragged."""
    lengths = [1 + (3 * sample + 1) % 5 for sample in range(batch)]
    return {
        "ids": ragged_view(random_view(FIELDS["ids"], (5,), batch), lengths),
        "sequence": ragged_view(random_view(FIELDS["sequence"], (5, 6), batch), lengths),
        "vector": random_view(FIELDS["vector"], (6,), batch),
    }


def pick_condition(condition: Any, samples: Sequence[int]) -> Any:
    """The conditions by name, of these samples only, in this order; None as it is."""
    if condition is None:
        return None
    return {
        name: value.take(samples) if isinstance(value, Packed) else value[list(samples)]
        for name, value in condition.items()
    }


def visible_elements(
    keep: IndexSet, grid: Sequence[int], shape: Sequence[int], field: Field | None
) -> Tensor:
    """bool that broadcasts to views [B, *shape]: which of their elements belong to kept tokens.

    Each token of an image or a clip (no `field`) has as many pixels of each side; sequences have a token an
    element.
    """
    size = keep.batch_size
    visible = keep.mask(grid_size(tuple(grid))).view(size, *grid)
    if field is not None:
        return visible.view(size, *grid, *[1] * (len(shape) - 1))
    sides = shape[-len(grid) :]
    for axis, (side, cells) in enumerate(zip(sides, grid, strict=True), 1):
        visible = visible.repeat_interleave(side // cells, dim=axis)
    return visible.view(size, *[1] * (len(shape) - len(grid)), *sides)
