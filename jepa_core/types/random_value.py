"""Random values of a field, to measure or try a model without data.

Axes: B samples, L elements of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Field

LENGTHS = 2, 9
"""Elements of a random sequence whose length is not given: from the first, below the second."""


def random_value(field: Field, batch_size: int, generator: torch.Generator | None = None) -> Tensor | Packed:
    """A batch of normal random numbers [B, *shape], or of ids of the vocabulary; ragged ones packed.

    Raises UserError for a field that says no shape or no vocabulary, and for text, which is no tensor.
    """
    if field.kind == "text":
        raise UserError("a text is no tensor: give it a transform that makes ids of it")
    if field.is_ragged:
        lengths = torch.randint(*LENGTHS, (batch_size,), generator=generator).tolist()
        inner = _sizes(field, field.shape[1:])
        return Packed.of([_draw(field, (length, *inner), generator) for length in lengths])
    if not field.shape:
        raise UserError(f"this field ({field.kind}) does not say its shape, so no random one can be made")
    return _draw(field, (batch_size, *_sizes(field, field.shape)), generator)


def _sizes(field: Field, shape: Sequence[int | None]) -> tuple[int, ...]:
    sizes = tuple(side for side in shape if side is not None)
    if len(sizes) < len(shape):
        raise UserError(f"a random {field.kind} needs a whole shape; this field's is {field.shape}")
    return sizes


def _draw(field: Field, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    if field.kind != "ids":
        return torch.randn(shape, generator=generator)
    if field.vocabulary is None:
        raise UserError("these ids do not say their vocabulary, so no random ones can be made")
    return torch.randint(field.vocabulary, shape, generator=generator)
