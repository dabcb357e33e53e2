"""What predictors of hidden tokens share: a narrow vision transformer over packed [context | mask tokens].

What is unusual: all sequences are packed into one tensor with one attention layout (`packing.py`), and
contexts and targets may be ragged. Only the places to be guessed are normed and projected at the end. Under
autocast the tokens are fp32 between the blocks; I-JEPA's code rounds context plus positions to bf16 once.

    pair (i, j), sample b:  [context i of b, projected, + positions | mask token + positions of target j of b]

Axes: B samples, S packed tokens, N tokens of the grid, P the predictor's width, D the encoder's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.attention import PackedAttention, Residual, choose_implementation, run_blocks, to_residual
from jepa_core.nn.packing import Mode, Packing, pack
from jepa_core.nn.rotary import Rotary, check_head_width, rotary
from jepa_core.nn.sincos import check_width, sincos
from jepa_core.nn.weight_init import draw_weights
from jepa_core.protocols import Encoder
from jepa_core.settings.base import ComponentSettings
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens
from jepa_kernels import Layout


class PackedPredictor(nn.Module, ABC):
    """A predictor for grids of any rank; a subclass says what its mask tokens are.

    `mode` says how sequences are laid out, see `packing.py`.
    Raises UserError for a width that the heads, or the axes of the grid, do not divide.
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
        positions: Literal["sincos", "rope"] = "sincos"
        """A fixed sine-cosine table added to the tokens, or rotary positions inside attention."""
        position_scale: float = 1.0
        """Factor on the sine-cosine positions, whose own amplitude is 1."""
        init_std: PositiveFloat = 0.02
        """Standard deviation of the initial weights."""
        checkpoint: bool = False
        """Recompute activations in the backward pass: less memory, about a third more time."""
        residual: Residual = "auto"
        """Type in which tokens are added up from block to block under bf16: `fp32` (released code),
        `autocast` (bf16 too, a tenth faster on a CPU), or `auto`: fp32 on a GPU, autocast on a CPU."""
        attention: str = "auto"
        """Implementation of attention, of `jepa_kernels.ATTENTION_IMPLS`; `auto` takes the best usable."""

    def __init__(self, config: Config, encoder: Encoder, target_width: int, mode: Mode = "repeat") -> None:
        super().__init__()
        self.config, self.mode = config, mode
        self.width, self.heads = config.width, config.heads or _divisor(config.width, encoder.heads)
        self._check(encoder.grid(encoder.view_shape()))
        self.embed = nn.Linear(encoder.width, self.width)
        self.blocks = nn.Sequential(*(self._block() for _ in range(config.depth)))
        self.norm = LayerNorm(self.width)
        self.proj = nn.Linear(self.width, target_width)
        self.make_mask_tokens()
        draw_weights(self, config.init_std)
        choose_implementation(self, config.attention)

    @abstractmethod
    def make_mask_tokens(self) -> None:
        """Creates the mask tokens' parameters; called once, in the constructor."""

    @abstractmethod
    def token_of(self, target: int, plan: MaskPlan) -> Tensor:
        """[1, P]: the mask token of a target set, by the set's number in the plan."""

    def positions(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        """[N, P]: the fixed table that is added to context and mask tokens."""
        weight, scale = self.embed.weight, self.config.position_scale
        return sincos(grid, self.width, scale, device=device or weight.device, dtype=weight.dtype)

    def forward(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any = None
    ) -> tuple[Tokens, ...]:
        """For each pair (i, j) of the plan, guesses [S of target j, target width] from context i.

        Named conditions are the source's, and not read here; raises UserError for any other one, which a
        variant meant for this predictor.
        """
        if condition is not None and not isinstance(condition, Mapping):
            raise UserError(
                f"predictor {self.config.name!r} uses no condition; got {type(condition).__name__}"
            )
        if not plan.pairs:
            return ()
        packing = pack(plan, self.mode)
        order = _inverse(packing.rows)
        x = to_residual(self._sources(contexts, plan, packing, grid), self.config.residual)
        x, _ = run_blocks(
            self.blocks,
            x.index_select(0, order),
            self._places(contexts, plan, packing, grid, order),
            recompute=self.config.checkpoint,
        )
        guesses = self.proj(self.norm(x.index_select(0, torch.cat(packing.guesses))))
        targets = [plan.targets[j] for _, j in plan.pairs]
        parts = guesses.split([target.total for target in targets])
        return tuple(Tokens(part, target, grid) for part, target in zip(parts, targets, strict=True))

    def _sources(self, contexts: Sequence[Tokens], plan: MaskPlan, packing: Packing, grid: Grid) -> Tensor:
        """[S, P]: the projected contexts and the mask tokens, in the order of `packing.sources`."""
        seen = [self.embed(tokens.values) for tokens in contexts]
        hidden = [
            self.token_of(number, plan).expand(target.total, -1) for number, target in enumerate(plan.targets)
        ]
        if self.config.positions == "sincos":
            table = self.positions(grid, plan.targets[0].index.device)
            seen = [x + table.index_select(0, t.at.index) for x, t in zip(seen, contexts, strict=True)]
            hidden = [x + table.index_select(0, t.index) for x, t in zip(hidden, plan.targets, strict=True)]
        tokens = {"context": seen, "target": hidden}
        return torch.cat([tokens[source.kind][source.number] for source in packing.sources])

    def _places(
        self, contexts: Sequence[Tokens], plan: MaskPlan, packing: Packing, grid: Grid, order: Tensor
    ) -> Layout | Rotary:
        """The attention layout; with each row's rotary angles where positions are rotary."""
        if self.config.positions != "rope":
            return packing.layout
        index = {"context": [t.at.index for t in contexts], "target": [t.index for t in plan.targets]}
        rows = torch.cat([index[source.kind][source.number] for source in packing.sources])
        return rotary(grid, rows.index_select(0, order), self.width // self.heads, packing.layout)

    def _block(self) -> Block:
        ratio = self.config.mlp_ratio
        return Block(self.width, self.heads, mlp_ratio=ratio, qkv_bias=True, attn_layer=PackedAttention)

    def _check(self, grid: Grid) -> None:
        """Raises UserError where the width does not suit the heads or the grid."""
        if self.width % self.heads:
            raise UserError(
                f"predictor {self.config.name!r}: a width of {self.width} cannot be split among {self.heads} "
                "heads; set predictor.width or predictor.heads"
            )
        try:
            if self.config.positions == "rope":
                check_head_width(grid, self.width // self.heads)
            else:
                check_width(grid, self.width)
        except UserError as error:
            raise UserError(f"predictor {self.config.name!r}: {error}; set predictor.width") from None


def _divisor(width: int, most: int) -> int:
    """The largest number of heads up to `most` that divides `width`."""
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(permutation.numel(), device=permutation.device)
    return inverse
