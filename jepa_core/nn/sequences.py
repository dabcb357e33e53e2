"""Views and conditions that are sequences, in every form in which a batch may hold them, as one: `Packed`.

Axes: B samples, L elements of a sequence, S packed elements, K elements kept, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types.index_set import IndexSet
from jepa_core.types.packed import Packed
from jepa_core.types.tokens import Tokens

IDS, VECTORS = 0, 1
"""Axes of an element: the number of a token has none, a vector has one."""


def to_packed(value: Any, element_axes: int, reader: str) -> Packed:
    """The elements of each sample: of a `Packed` or `Tokens`, a dense [B, L, …], or [B, …] with one of each.

    `element_axes`: IDS or VECTORS. `reader` begins the error: `encoder 'text_transformer'`.
    Raises UserError for anything else, for ids that are no whole numbers, and vectors that are no floats.
    """
    values = value.values if isinstance(value, Packed | Tokens) else value
    if isinstance(values, Tensor) and values.is_floating_point() == (element_axes == VECTORS):
        axes = values.dim() - element_axes
        if values is not value and axes == 1:
            return value if isinstance(value, Packed) else Packed(values, value.at)
        if values is value and axes in (1, 2):
            length = values.shape[1] if axes == 2 else 1
            at = IndexSet.full(values.shape[0], length, values.device)
            return Packed(values.flatten(0, 1) if axes == 2 else values, at)
    forms = "ids: a Packed int64 [S], int64 [B, L] or [B]"
    if element_axes == VECTORS:
        forms = "vectors: a Packed [S, D], [B, L, D] or [B, D] of floats"
    shape = f" of {values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else ""
    raise UserError(f"{reader} takes {forms}; got {type(value).__name__}{shape}")


def take_elements(sequences: Packed, keep: IndexSet | None, reader: str) -> Packed:
    """The elements at the places `keep` of each sequence, in its order; all of them without it.

    Raises UserError for another number of index sets than of sequences, and, on the CPU, for places that a
    sequence does not have; on an accelerator it is not checked, which would wait for the device.
    """
    if keep is None:
        return sequences
    at = sequences.at
    if keep.batch_size != at.batch_size:
        raise UserError(
            f"{reader}: {keep.batch_size} index sets for {at.batch_size} sequences; expected one each"
        )
    lengths = at.lengths.index_select(0, keep.samples)
    if _is_readable(keep.index):
        outside = (keep.index < 0) | (keep.index >= lengths)
        outside = outside if keep.valid is None else outside & keep.valid
        if bool(outside.any()):
            row = int(outside.nonzero()[0, 0])
            raise UserError(
                f"{reader}: sample {int(keep.samples[row])} keeps place {int(keep.index[row])} of a sequence "
                f"of {int(lengths[row])}; places count from 0"
            )
    rows = at.offsets.index_select(0, keep.samples) + keep.index
    rows = rows.clamp(max=at.total - 1)  # padding, which belongs to no sample, may stand beyond the last
    return Packed(sequences.values.index_select(0, rows), keep)


def check_ids(ids: Tensor, vocabulary: int, reader: str) -> None:
    """Raises UserError for an id outside 0 … `vocabulary` - 1; not checked on an accelerator, which would
    wait for the device."""
    if ids.numel() and _is_readable(ids):
        low, high = (int(end) for end in ids.aminmax())
        if low < 0 or high >= vocabulary:
            raise UserError(f"{reader} knows ids from 0 to {vocabulary - 1}; got {low} … {high}")


def check_length(length: int, most: int, reader: str, setting: str) -> None:
    """Raises UserError for sequences that are longer than the setting allows."""
    if length > most:
        raise UserError(f"{reader} takes sequences of up to {most}; got one of {length}: set {setting}")


def _is_readable(values: Tensor) -> bool:
    """Whether the host can read the values without waiting for a device or breaking a graph."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()
