"""Cross-attention over packed sequences: the rows of a sample read that sample's condition tokens.

What is unusual: it is `jepa_kernels.block_attention` with a layout of its own, so it is exact on ragged
sequences, pads nothing by itself, and runs in every implementation. Condition tokens and rows stand in one
tensor; the former ask nothing, and the latter are no keys:

    rows of the tensor:  [condition of sample 0 | … of sample B-1 | rows of sequence 0 | of sequence 1 | …]
    keys of a segment:    none                                    | the condition of its sample

The layout follows from lengths by arithmetic on their device; the host reads nothing.

Axes: B samples, C packed condition tokens, S packed rows, Q segments of rows, P width, H heads, E of a head.
"""

from __future__ import annotations

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn import attention
from jepa_core.nn.attention import PacksAttention
from jepa_core.types.index_set import IndexSet
from jepa_kernels import Layout
from jepa_kernels.readers import Readers


class CrossAttention(PacksAttention, nn.Module):
    """Rows [S, P] read condition tokens [C, P]; both are layer-normed first.

    A sample without condition tokens reads zeros. Raises UserError for a width that `heads` do not divide.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"cross-attention: a width of {width} cannot be split among {heads} heads")
        self.heads = heads
        self.norm_rows, self.norm_tokens = LayerNorm(width), LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, layout: Layout) -> Tensor:
        """[S, P] from rows [S, P] and condition tokens [C, P], by a layout of `cross_layout`."""
        query = self.query(self.norm_rows(x)).unflatten(-1, (1, self.heads, -1))
        pairs = self.key_value(self.norm_tokens(tokens)).unflatten(-1, (2, self.heads, -1))
        asks = torch.cat([query, query.new_zeros(len(x), 2, *query.shape[2:])], dim=1)
        answers = torch.cat([pairs.new_zeros(len(tokens), 1, *pairs.shape[2:]), pairs], dim=1)
        mixed = attention.block_attention(torch.cat([answers, asks]), layout, impl=self.impl)
        out: Tensor = self.proj(mixed[len(tokens) :].flatten(1))
        return out


def cross_layout(condition: IndexSet, rows: Layout, samples: Tensor) -> Layout:
    """The layout in which the segments of `rows` read the condition tokens of their samples.

    `samples` int64 [S]: the sample of each row; a segment's rows are of one sample.
    """
    device, ends = rows.seg.device, condition.offsets
    starts, lengths = (part.to(rows.seg.dtype) for part in (ends[:-1], condition.lengths))
    q_start, q_len = rows.seg[:, 0], rows.seg[:, 1]
    first = q_start.long().clamp(max=max(0, rows.total - 1))  # of an empty segment at the end, any
    sample = samples.index_select(0, first)
    none, nothing = torch.zeros_like(starts), torch.zeros_like(q_start)
    tokens = torch.stack([starts, lengths, none, none, none, none], dim=1)
    reads = [starts.index_select(0, sample), lengths.index_select(0, sample)]
    asks = torch.stack([q_start + condition.total, q_len, *reads, nothing, nothing], dim=1)
    longest = max(condition.max_length, rows.max_queries)
    return Layout(
        torch.cat([tokens, asks]).to(device),
        condition.total + rows.total,
        max_len=condition.max_length,
        max_queries=longest,
        has_unread=True,
        readers=_readers(tokens, asks, sample, longest),
    )


def _readers(tokens: Tensor, asks: Tensor, sample: Tensor, longest: int) -> Readers:
    """Who reads each row: a sample's condition tokens are read by its segments, all other rows by nobody."""
    order = torch.argsort(sample, stable=True)
    count = torch.zeros(len(tokens), dtype=torch.long, device=sample.device)
    count = count.index_add(0, sample, torch.ones_like(sample))
    read = torch.stack([*tokens[:, :2].unbind(1), count.cumsum(0) - count, count], dim=1)
    nobody = torch.zeros_like(asks[:, 0])
    unread = torch.stack([*asks[:, :2].unbind(1), nobody, nobody], dim=1)
    return Readers(torch.cat([read, unread]).int(), asks[:, :2].index_select(0, order).int(), longest)
