"""What a condition adds to the blocks of a predictor: cross-attention, or a modulation of each block (AdaLN).

What is unusual: the blocks stay timm's, with their names and initial weights; a part beside each of them runs
it. So a predictor with a condition has all weights of the one without, under the same names.

Axes: S packed rows, C packed condition tokens, P width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from jepa_core.nn.cross_attention import CrossAttention
from jepa_core.nn.rotary import Rotary
from jepa_kernels import Layout


@dataclass(frozen=True, eq=False)
class ConditionedPlaces:
    """Stands where a layout stands, and holds what a block's part reads.

    `places`: the layout of self-attention, or rotary positions with it; `tokens` [C, P]: the condition.
    `reads`: for cross-attention its layout; for a modulation int64 [S], the condition token of each row.
    """

    places: Layout | Rotary
    tokens: Tensor
    reads: Any


class CrossReading(nn.Module):
    """x + attention(x), x + cross-attention(x, condition), x + MLP(x), each of layer-normed x.

    As in TC-JEPA (arXiv 2605.03245) every block reads the words; the order of the three is that of the
    decoder of Vaswani et al. 2017 (arXiv 1706.03762).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross = CrossAttention(width, heads)

    def forward(self, block: Any, x: Tensor, attn_mask: ConditionedPlaces) -> Tensor:
        x = x + block.attn(block.norm1(x), attn_mask=attn_mask.places)
        x = x + self.cross(x, attn_mask.tokens, attn_mask.reads)
        out: Tensor = x + block.mlp(block.norm2(x))
        return out


class Modulation(nn.Module):
    """AdaLN-zero: shift, scale and gate of attention and MLP, six vectors from each row's condition token.

    They start at zero, so a block passes its input on at first. The block's layer norms keep their own weight
    and bias, which DiT's have not. Source: DiT (arXiv 2212.09748); LeWM (arXiv 2603.19312) for actions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.activation, self.proj = nn.SiLU(), nn.Linear(width, 6 * width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, block: Any, x: Tensor, attn_mask: ConditionedPlaces) -> Tensor:
        vectors = self.proj(self.activation(attn_mask.tokens)).index_select(0, attn_mask.reads)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = vectors.chunk(6, dim=-1)
        x = x + gate * block.attn(block.norm1(x) * (1 + scale) + shift, attn_mask=attn_mask.places)
        out: Tensor = x + mlp_gate * block.mlp(block.norm2(x) * (1 + mlp_scale) + mlp_shift)
        return out
