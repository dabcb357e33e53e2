"""A predictor's condition (a caption, actions, a class): from a batch's named values to packed tokens.

What is unusual: a dropped condition is one learned token, `null`. To cross-attention, copies of one token are
the same as that token once, so the values of a dropped sample are replaced and its length may stay. Only
where its tokens stand in the sequence itself (`tokens`) are they cut to one.

Axes: B samples, C packed condition tokens, S packed tokens or rows, P the predictor's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError, unknown
from jepa_core.nn.packing import interleave
from jepa_core.nn.sequences import IDS, VECTORS, check_ids, to_packed
from jepa_core.nn.sincos import sincos
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Field, Fields
from jepa_core.types.tokens import Tokens

PLACE = "condition."


def pick_field(fields: Fields | None, name: str, reader: str) -> tuple[str, Field]:
    """The name and the field of the condition called `name`, or of the only one where it is "".

    `fields` are the source's by their places (`condition.caption`). Raises UserError where there is none, or
    several and no name, and for a field that is neither ids with a vocabulary nor vectors of a known width.
    """
    known = {place.removeprefix(PLACE): f for place, f in (fields or {}).items() if place.startswith(PLACE)}
    listed = ", ".join(sorted(known)) or "none"
    if not known:
        raise UserError(
            f"{reader} reads a condition, and the data source has none; set predictor.condition=none"
        )
    if not name and len(known) > 1:
        raise UserError(f"{reader} reads one condition; set predictor.condition_name to one of: {listed}")
    name = name or next(iter(known))
    if name not in known:
        raise unknown("condition", name, known)
    field = known[name]
    if field.kind == "ids" and field.vocabulary:
        return name, field
    if field.kind in ("vector", "sequence") and field.shape and field.shape[-1]:
        return name, field
    raise UserError(
        f"{reader} reads ids of a vocabulary, or vectors of a width; condition {name!r} is {field.kind} "
        f"of shape {field.shape} without them"
    )


class ConditionTokens(nn.Module):
    """A named condition as packed tokens of the predictor's width: ids embedded, vectors projected.

    Elements of a sequence have sine-cosine positions where `positions` says so. In training a share `dropout`
    of the samples has `null`, one learned token, in the condition's place (drawn from torch's generator,
    which the trainer seeds by the step), and so has a batch without the condition; without `dropout` that is
    an error. `cut`: a dropped condition is one token long.
    """

    def __init__(
        self,
        name: str,
        field: Field,
        width: int,
        *,
        dropout: float = 0.0,
        positions: bool = True,
        cut: bool = False,
        reader: str = "predictor",
    ) -> None:
        super().__init__()
        self.name, self.field, self.dropout, self.cut = name, field, dropout, cut
        self.positions, self.reader = positions and field.kind != "vector", reader
        self.embed: nn.Module
        if field.kind == "ids":
            self.embed = nn.Embedding(field.vocabulary or 0, width)
        else:
            self.embed = nn.Linear(field.width, width)
        self.null = nn.Parameter(torch.randn(1, width)) if dropout else None

    def forward(self, condition: Any, batch_size: int) -> Packed:
        """[C, P] from the batch's conditions by name, or from the condition itself.

        Raises UserError where it is missing, of another form, or of another number of samples.
        """
        value = condition.get(self.name) if isinstance(condition, Mapping) else condition
        if value is None:
            return self._nulls(condition, batch_size)
        packed = self._check(value, batch_size)
        tokens = self.embed(packed.values)
        if self.positions:
            places = grid_size(value.grid) if isinstance(value, Tokens) else packed.at.max_length
            table = sincos((_next_power(places),), tokens.shape[-1], device=tokens.device)
            tokens = tokens + table.index_select(0, packed.at.index)
        packed = Packed(tokens, packed.at)
        if self.null is None or not self.training:
            return packed
        return self._drop(packed, torch.rand(batch_size, device=tokens.device) < self.dropout)

    def _nulls(self, condition: Any, batch_size: int) -> Packed:
        if self.null is None:
            there = ", ".join(condition) if isinstance(condition, Mapping) else ""
            raise UserError(
                f"{self.reader} needs the condition {self.name!r}; the batch has: {there or 'none'}. "
                "With predictor.condition_dropout it learns to do without"
            )
        return Packed(self.null.expand(batch_size, -1), IndexSet.full(batch_size, 1, self.null.device))

    def _drop(self, tokens: Packed, dropped: Tensor) -> Packed:
        """The tokens with `null` for the samples that are `dropped` bool [B]."""
        at = tokens.at
        gone = dropped.index_select(0, at.samples)
        assert self.null is not None
        values = torch.where(gone[:, None], self.null.to(tokens.values.dtype), tokens.values)
        if not self.cut:
            return Packed(values, at)
        first = torch.arange(at.total, device=gone.device) == at.offsets.index_select(0, at.samples)
        rows = (first | ~gone).nonzero()[:, 0]
        lengths = torch.where(dropped, at.lengths.clamp(max=1), at.lengths)
        return Packed(
            values.index_select(0, rows), IndexSet.from_lengths(at.index.index_select(0, rows), lengths)
        )

    def _check(self, value: Any, batch_size: int) -> Packed:
        what = f"{self.reader}, condition {self.name!r}:"
        packed = to_packed(value, IDS if self.field.kind == "ids" else VECTORS, what)
        if packed.batch_size != batch_size:
            raise UserError(f"{what} {packed.batch_size} samples; the masks speak of {batch_size}")
        if self.field.kind == "ids":
            check_ids(packed.values, self.field.vocabulary or 0, what)
        elif packed.values.shape[1] != self.field.width:
            raise UserError(f"{what} {packed.values.shape[1]} wide; its field says {self.field.width}")
        return packed


def prepend(condition: IndexSet, context: IndexSet) -> tuple[IndexSet, Tensor]:
    """The set in which each sample's condition tokens stand before its context, all at place 0 of the grid.

    Also int64 [C+S]: for each of its rows, the row of [all condition tokens | all context tokens]. Padding
    sequences of the context have no condition.
    """
    device, padding = context.index.device, context.lengths.numel() - condition.batch_size
    prefix = (
        replace(
            condition,
            lengths=torch.cat([condition.lengths, condition.lengths.new_zeros(padding)]),
            uniform=None,
        )
        if padding
        else condition
    )
    rows = torch.cat(interleave([prefix, context]))
    order = torch.empty_like(rows)
    order[rows] = torch.arange(rows.numel(), device=device)
    places = torch.cat([torch.zeros_like(condition.index), context.index]).index_select(0, order)
    alike = None not in (prefix.uniform, context.uniform)
    joined = replace(
        context,
        index=places,
        lengths=prefix.lengths + context.lengths,
        max_length=condition.max_length + context.max_length,
        uniform=(prefix.uniform or 0) + (context.uniform or 0) if alike else None,
    )
    return joined, order


def modulation_rows(condition: IndexSet, samples: Tensor, places: Tensor, grid: Grid, reader: str) -> Tensor:
    """int64 [S]: the condition token of each row, by its sample and its place in the grid, int64 [S] each.

    One token a sample serves all its rows; with one for each of the grid's first axis (frames, or the tokens
    of a sequence) a row has its own frame's. Raises UserError for any other number.
    """
    if condition.uniform == 1:
        return samples
    frames = grid[0]
    frame = places // (grid_size(grid) // frames)
    if condition.max_length != frames or _is_too_short(condition, samples, frame):
        raise UserError(
            f"{reader} takes a condition of one vector a sample, or one for each of the {frames} places "
            f"along the first axis of grid {grid}; got {_words(condition)}"
        )
    return (condition.offsets.index_select(0, samples) + frame).clamp(max=condition.total - 1)


def _is_too_short(condition: IndexSet, samples: Tensor, frame: Tensor) -> bool:
    """Whether a row's frame is beyond its sample's condition; not read from a device or a traced graph."""
    if condition.uniform is not None or frame.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool((frame >= condition.lengths.index_select(0, samples)).any())


def _words(condition: IndexSet) -> str:
    if condition.uniform is not None:
        return f"{condition.uniform} a sample"
    return f"different numbers, up to {condition.max_length}"


def _next_power(places: int) -> int:
    """The next power of two: few tables, whatever the longest sequence of a batch."""
    return 1 << max(0, places - 1).bit_length()
