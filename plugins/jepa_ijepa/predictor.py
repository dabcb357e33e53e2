"""The predictor: a narrow vision transformer that guesses hidden tokens from visible ones.

What is unusual: every (context, target) pair of the plan is a sequence of its own for each sample, as in
I-JEPA, and all of them are packed into one tensor with one attention layout. Contexts and targets may be
ragged. Only the places to be guessed are normed and projected at the end. Under autocast the tokens are
fp32 between the blocks; the released code rounds context plus positions to bf16 once.

    pair (i, j), sample b:  [context i of b, projected, + positions | mask token + positions of target j of b]

Axes: B samples, S packed tokens, N tokens of the grid, P the predictor's width, D the encoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from jepa_core.attention import PackedAttention, Residual, choose_implementation, run_block, to_residual
from jepa_core.errors import UserError
from jepa_core.positions import sincos
from jepa_core.protocols import Encoder
from jepa_core.settings import ComponentSettings
from jepa_core.types import Grid, IndexSet, MaskPlan, Tokens
from jepa_ijepa.init import draw_weights, rescale_depth
from jepa_kernels import Layout


class VitPredictor(nn.Module):
    """I-JEPA's predictor for grids of any rank.

    Raises UserError for a width that the heads do not divide.
    Source: I-JEPA (arXiv 2301.08243), section 3 and appendix A.1.
    """

    class Config(ComponentSettings):
        """Settings of the predictor."""

        depth: PositiveInt = 12
        """Number of transformer blocks."""
        width: PositiveInt = 384
        """Width of the tokens inside the predictor, P."""
        heads: PositiveInt | None = None
        """Attention heads of each block; without it the encoder's number, or the next lower one that divides
        the width."""
        mlp_ratio: PositiveFloat = 4.0
        """Hidden width of the MLPs over the width."""
        position_scale: float = 1.0
        """Factor on the sine-cosine positions, whose own amplitude is 1."""
        init_std: PositiveFloat = 0.02
        """Standard deviation of the initial weights and of the mask token."""
        depth_rescale: bool = False
        """Divide the output of block ℓ by √(2ℓ) at the start; off in effect in the official training."""
        checkpoint: bool = False
        """Recompute activations in the backward pass: less memory, about a third more time."""
        residual: Residual = "auto"
        """Type in which tokens are added up from block to block under bf16: `fp32` (released code),
        `autocast` (bf16 too, a tenth faster on a CPU), or `auto`: fp32 on a GPU, autocast on a CPU."""
        attention: str = "auto"
        """Implementation of attention, of `jepa_kernels.ATTENTION_IMPLS`; `auto` takes the best usable."""

    def __init__(self, config: Config, encoder: Encoder, target_width: int) -> None:
        super().__init__()
        self.config = config
        self.width, self.heads = config.width, config.heads or _divisor(config.width, encoder.heads)
        if self.width % self.heads:
            raise UserError(
                f"predictor {config.name!r}: a width of {self.width} cannot be split among {self.heads} "
                "heads; set predictor.width or predictor.heads"
            )
        self.embed = nn.Linear(encoder.width, self.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.width))
        self.blocks = nn.Sequential(*(self._block() for _ in range(config.depth)))
        self.norm = LayerNorm(self.width)
        self.proj = nn.Linear(self.width, target_width)
        nn.init.trunc_normal_(self.mask_token, std=config.init_std)
        draw_weights(self, config.init_std)
        if config.depth_rescale:
            rescale_depth(self.blocks)
        choose_implementation(self, config.attention)

    def _block(self) -> Block:
        ratio = self.config.mlp_ratio
        return Block(self.width, self.heads, mlp_ratio=ratio, qkv_bias=True, attn_layer=PackedAttention)

    def positions(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        """[N, P]: the fixed table that is added to context and mask tokens."""
        weight, scale = self.embed.weight, self.config.position_scale
        return sincos(grid, self.width, scale, device=device or weight.device, dtype=weight.dtype)

    def forward(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any = None
    ) -> tuple[Tokens, ...]:
        """For each pair (i, j) of the plan, guesses [S of target j, target width] from context i.

        Raises UserError for a condition, which this predictor does not use.
        """
        if condition is not None:
            raise UserError(
                f"predictor {self.config.name!r} uses no condition; got {type(condition).__name__}"
            )
        if not plan.pairs:
            return ()
        sets = [(contexts[i].at, plan.targets[j]) for i, j in plan.pairs]
        places, layout = pack(sets)
        x = to_residual(self._sources(contexts, plan, grid), self.config.residual)
        x = x.index_select(0, _inverse(torch.cat([place for pair in places for place in pair])))
        for block in self.blocks:
            x = run_block(block, x, layout, self.config.checkpoint)
        guesses = self.proj(self.norm(x.index_select(0, torch.cat([hidden for _, hidden in places]))))
        parts = guesses.split([target.total for _, target in sets])
        return tuple(Tokens(part, target, grid) for part, (_, target) in zip(parts, sets, strict=True))

    def _sources(self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid) -> Tensor:
        """[S of all sequences, P]: pair after pair, its packed context and then its packed mask tokens."""
        table = self.positions(grid, plan.targets[0].index.device)
        visible = [self.embed(tokens.values) + table.index_select(0, tokens.at.index) for tokens in contexts]
        hidden = [self.mask_token[0] + table.index_select(0, target.index) for target in plan.targets]
        return torch.cat([part for i, j in plan.pairs or () for part in (visible[i], hidden[j])])


def _divisor(width: int, most: int) -> int:
    """The largest number of heads up to `most` that divides `width`."""
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


def pack(sets: Sequence[tuple[IndexSet, IndexSet]]) -> tuple[list[tuple[Tensor, Tensor]], Layout]:
    """Rows of (context, target) pairs in one packed tensor, and its layout.

    Sequences follow pair after pair, sample after sample, context before target. For each pair: int64
    rows [S of the context] and [S of the target], in the order of the sets.
    """
    places, start = [], 0
    for context, target in sets:
        visible, hidden = _interleave(context, target)
        places.append((visible + start, hidden + start))
        start += context.total + target.total
    lengths = torch.cat([context.lengths + target.lengths for context, target in sets])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    longest = max(context.max_length + target.max_length for context, target in sets)
    return places, Layout.packed(offsets, max_len=longest, uniform=_uniform(sets), total=start)


def _interleave(context: IndexSet, target: IndexSet) -> tuple[Tensor, Tensor]:
    """Rows of one pair's sequences, from 0.

    Packed context token s of sample b has the targets of all earlier samples before it as well; packed
    target token s has the contexts of all samples up to its own.
    """
    device = context.index.device
    visible = torch.arange(context.total, device=device) + target.offsets[context.samples]
    hidden = torch.arange(target.total, device=device) + context.offsets[target.samples + 1]
    return visible, hidden


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(permutation.numel(), device=permutation.device)
    return inverse


def _uniform(sets: Sequence[tuple[IndexSet, IndexSet]]) -> int | None:
    """The length that all sequences share, if they do."""
    lengths = {
        context.uniform + target.uniform
        if context.uniform is not None and target.uniform is not None
        else None
        for context, target in sets
    }
    return lengths.pop() if len(lengths) == 1 else None
