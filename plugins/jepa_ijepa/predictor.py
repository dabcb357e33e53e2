"""The predictor: a narrow vision transformer that guesses hidden tokens from visible ones.

What is unusual: all sequences are packed into one tensor with one attention layout (`packing.py`), and
contexts and targets may be ragged. Only the places to be guessed are normed and projected at the end. Under
autocast the tokens are fp32 between the blocks; the released code rounds context plus positions to bf16 once.

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
from jepa_core.positions import check_width, sincos
from jepa_core.protocols import Encoder
from jepa_core.settings import ComponentSettings
from jepa_core.types import Grid, MaskPlan, Tokens
from jepa_ijepa.init import draw_weights, rescale_depth
from jepa_ijepa.packing import Mode, Packing, pack


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
        context: Mode = "repeat"
        """`repeat`: a copy of the context for each target, which reads the target's mask tokens (I-JEPA).
        `shared`: the context once, for all its targets, reading only itself: fewer tokens, another model."""
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
        try:
            check_width(encoder.grid(encoder.view_shape()), self.width)
        except UserError as error:
            raise UserError(f"predictor {config.name!r}: {error}; set predictor.width") from None
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
        packing = pack(plan, self.config.context)
        x = to_residual(self._sources(contexts, plan, packing, grid), self.config.residual)
        x = x.index_select(0, _inverse(packing.rows))
        for block in self.blocks:
            x = run_block(block, x, packing.layout, self.config.checkpoint)
        guesses = self.proj(self.norm(x.index_select(0, torch.cat(packing.guesses))))
        targets = [plan.targets[j] for _, j in plan.pairs]
        parts = guesses.split([target.total for target in targets])
        return tuple(Tokens(part, target, grid) for part, target in zip(parts, targets, strict=True))

    def _sources(self, contexts: Sequence[Tokens], plan: MaskPlan, packing: Packing, grid: Grid) -> Tensor:
        """[S, P]: the projected contexts and the mask tokens, in the order of `packing.sources`."""
        table = self.positions(grid, plan.targets[0].index.device)
        tokens = {
            "context": [self.embed(t.values) + table.index_select(0, t.at.index) for t in contexts],
            "target": [self.mask_token[0] + table.index_select(0, t.index) for t in plan.targets],
        }
        return torch.cat([tokens[source.kind][source.number] for source in packing.sources])


def _divisor(width: int, most: int) -> int:
    """The largest number of heads up to `most` that divides `width`."""
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(permutation.numel(), device=permutation.device)
    return inverse
