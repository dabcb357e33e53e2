"""Causal self-attention over packed sequences: a token attends to itself and to those before it.

What is unusual: sequences are padded at their ends for torch's fused kernel, and nothing is masked for it: to
a token, padding is the future. It runs through torch's `scaled_dot_product_attention` alone.

Axes: B sequences, L tokens of the longest, S packed tokens, H heads, E dimensions of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.nn.attention import PackedAttention
from jepa_kernels import Layout


class CausalAttention(PackedAttention):
    """`PackedAttention` in which a token reads its sequence up to itself, in the order of the packed tensor.

    Raises UserError for another implementation than `auto` and `sdpa`.
    """

    def mix(self, qkv: Tensor, layout: Layout) -> Tensor:
        """[S, 3, H, E] to [S, H, E]. The layout's segments are plain sequences."""
        if self.impl not in ("auto", "sdpa"):
            raise UserError(
                f"causal attention runs through sdpa alone; got {self.impl!r}, expected auto or sdpa"
            )
        assert layout.plain, "causal attention takes sequences that attend to themselves"
        longest = layout.max_queries
        if layout.uniform is not None:
            return self._attend(qkv.view(-1, layout.uniform, *qkv.shape[1:]))
        places = layout.cache("causal places", lambda: padded_places(layout))
        padded = qkv.new_zeros(layout.segments * longest, *qkv.shape[1:]).index_copy(0, places, qkv)
        return self._attend(padded.view(-1, longest, *qkv.shape[1:])).index_select(0, places)

    def _attend(self, qkv: Tensor) -> Tensor:
        """[B, L, 3, H, E] to [B·L, H, E]."""
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.scale)
        return mixed.transpose(1, 2).flatten(0, 1)


def padded_places(layout: Layout) -> Tensor:
    """int64 [S]: the place of each row among sequences that are all padded to the longest, end to end."""
    starts, lengths = layout.seg[:, 0].long(), layout.seg[:, 1].long()
    numbers = torch.arange(layout.segments, device=layout.device)
    sequence = numbers.repeat_interleave(lengths, output_size=layout.total)
    rows = torch.arange(layout.total, device=layout.device)
    return rows - starts.index_select(0, sequence) + sequence * layout.max_queries
