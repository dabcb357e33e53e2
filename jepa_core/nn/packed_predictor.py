"""What predictors of hidden tokens share: a narrow vision transformer over packed [context | mask tokens].

What is unusual: all sequences are packed into one tensor with one attention layout (`packing.py`), and
contexts and targets may be ragged. After the attention of the last block only the places to be guessed are
computed. Under autocast the tokens are fp32 between the blocks; I-JEPA's code rounds context plus positions
to bf16 once.

    pair (i, j), sample b:  [context i of b, projected, + positions | mask token + positions of target j of b]

Axes: B samples, S packed tokens, N tokens of the grid, P the predictor's width, D the encoder's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from timm.layers import LayerNorm
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.attention import (
    PackedBlock,
    Residual,
    choose_implementation,
    run_blocks_at,
    to_residual,
)
from jepa_core.nn.conditioning import Conditioning
from jepa_core.nn.fused_linear import fuse_linears
from jepa_core.nn.packing import Mode, Packing, pack
from jepa_core.nn.rotary import Rotary, check_head_width, rotary
from jepa_core.nn.sincos import check_width, sincos
from jepa_core.nn.weight_init import draw_weights
from jepa_core.protocols import Encoder
from jepa_core.settings.base import ComponentSettings
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Fields
from jepa_core.types.tokens import Tokens
from jepa_kernels import Layout


class PackedPredictor(nn.Module, ABC):
    """A predictor for grids of any rank; a subclass says what its mask tokens are.

    `mode` says how sequences are laid out, see `packing.py`; `fields` are the source's, of which a predictor
    with a condition reads one, see `conditioning.py`.
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
        condition: Literal["none", "ignore", "cross", "adaln", "tokens"] = "none"
        """How a condition of the samples (a caption, actions) is read: by `cross` attention in every block;
        as a modulation of every block (`adaln`), by one vector a sample or a frame; as `tokens` before the
        context.
        `none` refuses a condition, `ignore` leaves it unread."""
        condition_name: str = ""
        """Which of the source's conditions is read; it need not be said where there is one."""
        condition_dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the training samples whose condition is replaced by a learned token, which then also
        stands for a condition that is not given; without it a missing condition is an error."""

    condition: Conditioning | None

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        target_width: int,
        mode: Mode = "repeat",
        *,
        fields: Fields | None = None,
    ) -> None:
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
        self.condition = self._make_conditioning(fields)
        choose_implementation(self, config.attention)
        fuse_linears(self)

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

        Raises UserError for a condition that it does not use, and without the one that it needs.
        """
        if condition is not None and self.config.condition == "none":
            raise UserError(
                f"predictor {self.config.name!r} uses no condition; got {type(condition).__name__}; "
                "set predictor.condition to cross, adaln, tokens, or ignore"
            )
        if not plan.pairs:
            return ()
        seen, sets = [self._embed(tokens, grid) for tokens in contexts], [tokens.at for tokens in contexts]
        read: Packed | None = None
        if self.condition is not None:
            read = self.condition.tokens(condition, sets[0].batch_size)
            seen, sets = self.condition.join(read, seen, sets)
            plan = MaskPlan(tuple(sets), plan.targets, plan.pairs)
        packing = pack(plan, self.packing_mode(plan))
        order = _inverse(packing.rows)
        x = to_residual(self._sources(seen, plan, packing, grid), self.config.residual)
        x = run_blocks_at(
            self.blocks if self.condition is None else self.condition.blocks(self.blocks),
            x.index_select(0, order),
            self._places(sets, plan, packing, grid, order, read),
            torch.cat(packing.guesses),
            recompute=self.config.checkpoint,
        )
        guesses = self.proj(self.norm(x))
        targets = [plan.targets[j] for _, j in plan.pairs]
        parts = guesses.split([target.total for target in targets])
        return tuple(Tokens(part, target, grid) for part, target in zip(parts, targets, strict=True))

    def packing_mode(self, plan: MaskPlan) -> Mode:
        """`mode`; for a single block `shared` where that saves copies of a context.

        A single block gives the same guesses in both: copies of a context differ only after they have read
        their target, and after the last block nobody reads them.
        """
        has_copies = len(plan.pairs) > len({context for context, _ in plan.pairs})
        return "shared" if has_copies and self.config.depth == 1 else self.mode

    def _embed(self, context: Tokens, grid: Grid) -> Tensor:
        """[S, P]: a context, projected, with its positions."""
        x: Tensor = self.embed(context.values)
        if self.config.positions != "sincos":
            return x
        return x + self.positions(grid, context.at.index.device).index_select(0, context.at.index)

    def _sources(self, seen: Sequence[Tensor], plan: MaskPlan, packing: Packing, grid: Grid) -> Tensor:
        """[S, P]: the embedded contexts and the mask tokens, in the order of `packing.sources`."""
        hidden = [
            self.token_of(number, plan).expand(target.total, -1) for number, target in enumerate(plan.targets)
        ]
        if self.config.positions == "sincos":
            table = self.positions(grid, plan.targets[0].index.device)
            hidden = [x + table.index_select(0, t.index) for x, t in zip(hidden, plan.targets, strict=True)]
        tokens = {"context": seen, "target": hidden}
        return torch.cat([tokens[source.kind][source.number] for source in packing.sources])

    def _places(
        self,
        sets: Sequence[IndexSet],
        plan: MaskPlan,
        packing: Packing,
        grid: Grid,
        order: Tensor,
        condition: Packed | None,
    ) -> Any:
        """The attention layout; with each row's rotary angles and with the condition where there are any."""
        if self.config.positions != "rope" and self.condition is None:
            return packing.layout
        all_sets = {"context": sets, "target": plan.targets}
        sources = [all_sets[source.kind][source.number] for source in packing.sources]
        index = torch.cat([own.index for own in sources]).index_select(0, order)
        places: Layout | Rotary = packing.layout
        if self.config.positions == "rope":
            places = rotary(grid, index, self.width // self.heads, packing.layout)
        if self.condition is None or condition is None:
            return places
        samples = torch.cat([own.samples for own in sources]).index_select(0, order)
        return self.condition.places(places, condition, samples, index, grid)

    def _make_conditioning(self, fields: Fields | None) -> Conditioning | None:
        config = self.config
        if config.condition == "none" or config.condition == "ignore":
            return None
        return Conditioning(
            config.condition,
            config.condition_name,
            fields,
            width=self.width,
            heads=self.heads,
            depth=config.depth,
            dropout=config.condition_dropout,
            init_std=config.init_std,
            reader=f"predictor {config.name!r}",
        )

    def _block(self) -> PackedBlock:
        return PackedBlock(self.width, self.heads, mlp_ratio=self.config.mlp_ratio, qkv_bias=True)

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
