"""How a predictor of packed tokens reads a condition: `cross`, `adaln` or `tokens`.

    cross    every block's rows attend to the condition's tokens, after attending to each other
    adaln    every block is modulated by one vector a sample, or one for each frame (actions)
    tokens   the condition's tokens stand before the context, in the same sequence

What is unusual: nothing is padded, and the host reads nothing (but with dropped `tokens`), so that a
condition of fixed shape may be part of a CUDA graph; `train.cuda_graph` refuses ragged ones. It is all made
after the other weights of the predictor, which are therefore those of the one without a condition.

Axes: S packed rows, C packed condition tokens, P the predictor's width, N tokens of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.conditioned_blocks import ConditionedPlaces, CrossReading, Modulation
from jepa_core.nn.conditions import ConditionTokens, modulation_rows, pick_field, prepend
from jepa_core.nn.cross_attention import cross_layout
from jepa_core.nn.rotary import Rotary
from jepa_core.nn.weight_init import draw_weights
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Fields

How = Literal["cross", "adaln", "tokens"]


class Conditioning(nn.Module):
    """The condition `name` of the source's `fields` ("": the only one), for a predictor's blocks.

    `reader` names the predictor in errors. Raises UserError where the fields have no such condition, and for
    an odd width, which leaves no positions for the condition's tokens.
    """

    def __init__(
        self,
        how: How,
        name: str,
        fields: Fields | None,
        *,
        width: int,
        heads: int,
        depth: int,
        dropout: float = 0.0,
        init_std: float = 0.02,
        reader: str = "predictor",
    ) -> None:
        super().__init__()
        self.how, self.reader = how, reader
        name, field = pick_field(fields, name, reader)
        if width % 2:
            raise UserError(f"{reader}: positions of a condition need an even width; got {width}")
        parts: Iterable[nn.Module] = ()
        if how == "cross":
            parts = [CrossReading(width, heads) for _ in range(depth)]
        elif how == "adaln":
            parts = [Modulation(width) for _ in range(depth)]
        self.parts = nn.ModuleList(parts)
        if how == "cross":
            draw_weights(self.parts, init_std)
        self.tokens = ConditionTokens(
            name,
            field,
            width,
            dropout=dropout,
            positions=how != "adaln",
            cut=how == "tokens",
            reader=reader,
        )

    def blocks(self, blocks: Iterable[nn.Module]) -> list[Callable[..., Tensor]]:
        """The predictor's blocks, each run by the part that reads the condition."""
        if self.how == "tokens":
            return list(blocks)
        return [partial(part, block) for part, block in zip(self.parts, blocks, strict=True)]

    def places(self, own: Any, condition: Packed, samples: Tensor, index: Tensor, grid: Grid) -> Any:
        """What the blocks take as places: `own`, a Layout or Rotary, and what reads the condition.

        `samples`, `index`: int64 [S], the sample of each row and its place in the grid.
        Raises UserError for a number of vectors that fits neither samples nor frames (`adaln`).
        """
        if self.how == "tokens":
            return own
        if self.how == "adaln":
            rows = modulation_rows(condition.at, samples, index, grid, self.reader)
            return ConditionedPlaces(own, condition.values, rows)
        layout = own.layout if isinstance(own, Rotary) else own
        return ConditionedPlaces(own, condition.values, cross_layout(condition.at, layout, samples))

    def join(
        self, condition: Packed, contexts: Sequence[Tensor], sets: Sequence[IndexSet]
    ) -> tuple[list[Tensor], list[IndexSet]]:
        """The contexts [S, P] of these sets, with the condition's tokens before them where it is `tokens`."""
        if self.how != "tokens":
            return list(contexts), list(sets)
        joined = [prepend(condition.at, own) for own in sets]
        values = [
            torch.cat([condition.values.to(context.dtype), context]).index_select(0, order)
            for context, (_, order) in zip(contexts, joined, strict=True)
        ]
        return values, [own for own, _ in joined]
