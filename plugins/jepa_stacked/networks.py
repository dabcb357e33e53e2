"""The networks of a level, and an encoder of frames whose tokens stand in a grid.

What is unusual: a level keeps the cells of the one below, so that things are told apart by where they are; a
prediction is what was there last plus a change, so that an untrained level expects nothing to happen.

Axes: N windows, K windows of the level below in one, F windows of a history, P cells, D width, U width of the
level above, C width of a condition, W width inside a predictor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core import ComponentSettings, Grid, IndexSet, Tokens
from jepa_core.errors import UserError
from jepa_core.nn.attention import check_layers
from jepa_core.nn.patch_grid import kept_tokens, patch_grid
from jepa_core.nn.residual_mlp import residual_mlp

CHANNELS = 3


class FrameGrid(nn.Module):
    """Convolutions that overlap, to a grid of tokens: one for each square of `2 patch` pixels. Hidden ones
    are 0.

    A first convolution of side and stride `patch`, one of side 3 for each further width, a last one of stride
    2, and `depth` residual MLPs on each token.
    """

    class Config(ComponentSettings):
        """Settings of the encoder."""

        image_size: PositiveInt = 64
        """Side of the frames in pixels."""
        patch: PositiveInt = 8
        """Side and stride of the first convolution."""
        channels: tuple[PositiveInt, ...] = Setting((32, 32), min_length=1)
        """Widths of the convolutions before the last."""
        width: PositiveInt = 64
        """Width of the tokens, D."""
        depth: PositiveInt = 1
        """Residual MLPs after the convolutions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width, self.depth, self.heads = config, config.width, config.depth, 1
        first, *others = config.channels
        layers: list[nn.Module] = [nn.Conv2d(CHANNELS, first, config.patch, config.patch), nn.GELU()]
        for before, after in zip(config.channels, others, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GELU()]
        layers.append(nn.Conv2d(config.channels[-1], self.width, 3, stride=2, padding=1))
        self.convolutions = nn.Sequential(*layers)
        self.blocks = nn.ModuleList(residual_mlp(self.width) for _ in range(self.depth))
        self.grid(self.view_shape())

    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (CHANNELS, self.config.image_size, self.config.image_size)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(rows, columns) of tokens. Raises UserError for sides that `2 patch` does not divide."""
        sides = (2 * self.config.patch, 2 * self.config.patch)
        return patch_grid(self.config.name, view_shape, CHANNELS, sides, "encoder.image_size or patch")

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Tokens [S, D] at `keep` (all without it) of frames [B, C, H, W]; each sees visible neighbours."""
        grid = self.grid(view.shape[1:])
        check_layers(layers, self.depth)
        at = kept_tokens(keep, view, grid)
        if keep is not None:
            view = view * self._visible(at, grid, view)
        x = rearrange(self.convolutions(view), "b d h w -> (b h w) d")
        x = x.index_select(0, at.flat(grid[0] * grid[1]))
        outputs = []
        for block in self.blocks:
            x = x + block(x)
            outputs.append(x)
        return Tokens(x, at, grid, tuple(outputs[number - 1] for number in layers))

    def _visible(self, at: IndexSet, grid: Grid, view: Tensor) -> Tensor:
        """[B, 1, H, W]: 1 in the squares of the tokens that are kept."""
        cells = view.new_zeros(len(view) * grid[0] * grid[1]).index_fill(0, at.flat(grid[0] * grid[1]), 1)
        side = 2 * self.config.patch
        return cells.view(-1, 1, *grid).repeat_interleave(side, 2).repeat_interleave(side, 3)


class WindowEncoder(nn.Module):
    """Windows [N, K, P, U] of the level below to [N, P, D], each cell for itself."""

    def __init__(self, stride: int, below: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(stride * below, width)
        self.mlp = residual_mlp(width)

    def forward(self, windows: Tensor) -> Tensor:
        x: Tensor = self.embed(rearrange(windows, "n k p u -> n p (k u)"))
        return x + self.mlp(x)


class LevelPredictor(nn.Module):
    """The next window [N, P, D] of a level from its last F [N, F, P, D].

    `condition` [N, C] (a prompt, a macro-action) modulates every block (AdaLN); `subgoal` [N, P, U], what the
    level above expects of the window that the next one lies in, is read cell by cell.
    """

    def __init__(
        self,
        width: int,
        history: int,
        cells: int,
        *,
        hidden: int,
        depth: int,
        heads: int,
        condition: int = 0,
        subgoal: int = 0,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise UserError(f"a level's hidden width of {hidden} cannot be split among {heads} heads")
        self.embed = nn.Linear(history * width + subgoal, hidden)
        self.cells = nn.Parameter(0.02 * torch.randn(cells, hidden))
        self.condition = nn.Sequential(nn.Linear(condition, hidden), nn.SiLU()) if condition else None
        parts = {"mix": cells > 1, "modulate": condition > 0}
        self.blocks = nn.ModuleList(ConditionedBlock(hidden, heads, **parts) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, width)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, past: Tensor, condition: Tensor | None = None, subgoal: Tensor | None = None) -> Tensor:
        x = rearrange(past, "n f p d -> n p (f d)")
        x = self.embed(x if subgoal is None else torch.cat([x, subgoal], dim=-1)) + self.cells
        vector = None if self.condition is None else self.condition(condition)
        for block in self.blocks:
            x = block(x, vector)
        change: Tensor = self.head(self.norm(x))
        return past[:, -1] + change


class ConditionedBlock(nn.Module):
    """A pre-norm transformer block; with `modulate` a vector [N, W] scales and shifts what its norms
    give (AdaLN), with `mix` the cells attend to each other."""

    def __init__(self, width: int, heads: int, *, mix: bool, modulate: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=not modulate) for _ in range(2))
        self.modulation = nn.Linear(width, 4 * width) if modulate else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        self.qkv = nn.Linear(width, 3 * width) if mix else None
        self.proj = nn.Linear(width, width) if mix else None
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, vector: Tensor | None) -> Tensor:
        """[N, P, W]"""
        shifts: Sequence[Tensor | float] = (0.0, 0.0, 0.0, 0.0)
        if self.modulation is not None:
            shifts = self.modulation(vector)[:, None].chunk(4, dim=-1)
        if self.qkv is not None and self.proj is not None:
            normed = self.norms[0](x) * (1 + shifts[0]) + shifts[1]
            q, k, v = rearrange(self.qkv(normed), "n p (three h d) -> three n h p d", three=3, h=self.heads)
            mixed = F.scaled_dot_product_attention(q, k, v)
            x = x + self.proj(rearrange(mixed, "n h p d -> n p (h d)"))
        return x + self.mlp(self.norms[1](x) * (1 + shifts[2]) + shifts[3])
