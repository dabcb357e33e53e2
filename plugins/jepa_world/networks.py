"""Small networks of world models: an encoder that makes one token of a frame, and a predictor of its next
one.

Axes: B frames or samples, C channels, H, W pixels, D width, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor, nn

from jepa_core import ComponentSettings, Grid, IndexSet, MaskPlan, Tokens
from jepa_core.errors import UserError
from jepa_core.nn.attention import check_layers
from jepa_core.nn.conditions import ConditionTokens, pick_field
from jepa_core.nn.patch_grid import kept_tokens, patch_grid
from jepa_core.nn.residual_mlp import residual_mlp
from jepa_core.nn.sincos import sincos
from jepa_core.protocols import Encoder
from jepa_core.types import grid_size
from jepa_core.types.sample import Fields

CHANNELS = 3


class FrameCnn(nn.Module):
    """Convolutions, and a linear map of the whole feature map to one token: places in the frame are kept.

    A first convolution of side and stride `patch`, then one of stride 2 for each further width, one more of
    stride 1, and `depth` residual MLPs on the token.
    """

    class Config(ComponentSettings):
        """Settings of the encoder."""

        image_size: PositiveInt = 64
        """Side of the frames in pixels; no other size is taken."""
        patch: PositiveInt = 4
        """Side and stride of the first convolution."""
        channels: tuple[PositiveInt, ...] = Setting((32, 64), min_length=1)
        """Widths of the convolutions."""
        width: PositiveInt = 64
        """Width of the token, D."""
        depth: PositiveInt = 1
        """Residual MLPs after the convolutions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.width, self.depth, self.heads = config.width, config.depth, 1
        layers: list[nn.Module] = [
            nn.Conv2d(CHANNELS, config.channels[0], config.patch, config.patch),
            nn.GELU(),
        ]
        for before, after in pairwise(config.channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        last = config.channels[-1]
        self.convolutions = nn.Sequential(
            *layers, nn.Conv2d(last, last, 3, padding=1), nn.GELU(), nn.Flatten()
        )
        self.grid(self.view_shape())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, *self.view_shape())).shape[1]
        self.head = nn.Linear(flat, self.width)
        self.blocks = nn.ModuleList(residual_mlp(self.width) for _ in range(self.depth))

    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (CHANNELS, self.config.image_size, self.config.image_size)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(1, 1): the frame is one token. Raises UserError for frames of another size."""
        sides = self.view_shape()[1:]
        grid = patch_grid(self.config.name, view_shape, CHANNELS, sides, "encoder.image_size")
        if grid != (1, 1):
            height, width = view_shape[1:]
            raise UserError(
                f"encoder {self.config.name!r} takes frames of {sides[0]}×{sides[1]}; got {height}×{width}; "
                "set encoder.image_size"
            )
        return grid

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """One token [B, D] of each frame [B, C, H, W], where `keep` keeps it."""
        grid = self.grid(view.shape[1:])
        check_layers(layers, self.depth)
        at = kept_tokens(keep, view, grid)
        x = self.head(self.convolutions(view))
        outputs = []
        for block in self.blocks:
            x = x + block(x)
            outputs.append(x)
        rows = at.flat(1)
        return Tokens(
            x.index_select(0, rows), at, grid, tuple(outputs[n - 1].index_select(0, rows) for n in layers)
        )


class Transition(nn.Module):
    """The next token of a frame from its token and the action: a GRU cell, or an MLP that adds to the token.

    For frames of one token, `variant.history = 1`: of several visible tokens it reads the mean, and a hidden
    token's place where the grid has more than one. Sources: PLDM (arXiv 2502.14819), whose hidden state is
    the token and whose input is the action; SMWM (arXiv 2606.20104) for the MLP.
    """

    class Config(ComponentSettings):
        """Settings of the predictor."""

        gru: bool = False
        """Whether it is a GRU cell; if not, an MLP."""
        hidden: PositiveInt = 256
        """Width of the MLP's two hidden layers, and of the GRU's input, an embedding of the action."""
        condition_name: str = ""
        """Which of the source's conditions is the action; it need not be said where there is one."""

    def __init__(
        self, config: Config, encoder: Encoder, target_width: int, fields: Fields | None = None
    ) -> None:
        super().__init__()
        self.config = config
        reader = f"predictor {config.name!r}"
        name, field = pick_field(fields, config.condition_name, reader)
        self.action = ConditionTokens(name, field, config.hidden, positions=False, reader=reader)
        hidden = config.hidden
        self.resize = (
            nn.Identity() if encoder.width == target_width else nn.Linear(encoder.width, target_width)
        )
        if config.gru:
            self.cell = nn.GRUCell(hidden, target_width)
        else:
            self.inner = nn.Linear(target_width, hidden)
            self.mlp = nn.Sequential(
                nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, target_width)
            )
        self.width = target_width

    def forward(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any = None
    ) -> tuple[Tokens, ...]:
        """One `Tokens` [S of the target, target width] for each pair of the plan.

        Raises UserError without the action, or for several of them a sample.
        """
        if not plan.pairs:
            return ()
        actions = self.action(condition, contexts[0].at.batch_size)
        vectors = Tokens(actions.values, actions.at, (actions.at.max_length,)).mean()
        return tuple(self._predict(contexts[i], vectors, plan.targets[j], grid) for i, j in plan.pairs)

    def _predict(self, context: Tokens, actions: Tensor, target: IndexSet, grid: Grid) -> Tokens:
        state = self.resize(context.mean()).index_select(0, target.samples)
        if grid_size(grid) > 1:
            state = state + sincos(grid, self.width, device=state.device).index_select(0, target.index)
        action = actions.index_select(0, target.samples)
        if self.config.gru:
            return Tokens(self.cell(action, state), target, grid)
        return Tokens(state + self.mlp(self.inner(state) + action), target, grid)
