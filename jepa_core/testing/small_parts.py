"""A small encoder, predictor and masker for token grids of any rank.

Checks build a model of them around the component that is checked. A view is [B, 3, *grid], one token a cell.

Axes: B samples, S packed tokens, N tokens of the grid, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.nn.sincos import sincos
from jepa_core.protocols import Encoder
from jepa_core.settings.base import ComponentSettings, MaskerSettings
from jepa_core.testing.outcomes import NotAsked
from jepa_core.training.plan_buckets import SetBuckets
from jepa_core.types.index_set import Grid, IndexSet, grid_size
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens

CHANNELS = 3


class SmallEncoder(nn.Module):
    """Blocks whose input is each token and the mean of its sample's kept tokens."""

    class Config(ComponentSettings):
        """Settings of the encoder."""

        sides: tuple[int, ...] = (4, 6)
        """The token grid."""
        width: int = 48
        """Width of the features, D; shared out among the axes of the grid."""
        depth: int = 2
        """Number of blocks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.width, self.depth, self.heads = config.width, config.depth, 2
        self.embed = nn.Linear(CHANNELS, self.width)
        self.blocks = nn.ModuleList(nn.Linear(2 * self.width, self.width) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width)

    def view_shape(self) -> tuple[int, ...]:
        """(C, *grid)."""
        return (CHANNELS, *self.config.sides)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """The grid is the view's own. Raises UserError for another number of channels."""
        if view_shape[0] != CHANNELS:
            raise UserError(f"encoder small takes {CHANNELS} channels; got {tuple(view_shape)}")
        return tuple(view_shape[1:])

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        grid = self.grid(view.shape[1:])
        at = IndexSet.full(len(view), grid_size(grid)) if keep is None else keep
        cells = rearrange(view, "b c ... -> (b ...) c").index_select(0, at.flat(grid_size(grid)))
        x = self.embed(cells) + sincos(grid, self.width).index_select(0, at.index)
        outputs = {}
        for number, block in enumerate(self.blocks, 1):
            mean = Tokens(x, at, grid).mean().index_select(0, at.samples)
            x = x + F.gelu(block(torch.cat([x, mean], dim=1)))
            outputs[number] = x
        return Tokens(self.norm(x), at, grid, tuple(outputs[layer] for layer in layers))


class SmallPredictor(nn.Module):
    """Predicts a hidden token from its position and the mean of its sample's context."""

    class Config(ComponentSettings):
        """It has no settings."""

    def __init__(self, config: Config, encoder: Encoder, target_width: int) -> None:
        super().__init__()
        self.config = config
        self.read = nn.Linear(2 * encoder.width, target_width)

    def forward(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any = None
    ) -> tuple[Tokens, ...]:
        return tuple(self._guess(contexts[i], plan.targets[j], grid) for i, j in plan.pairs)

    def _guess(self, context: Tokens, target: IndexSet, grid: Grid) -> Tokens:
        seen = context.mean().index_select(0, target.samples)
        places = sincos(grid, context.width).index_select(0, target.index)
        return Tokens(self.read(torch.cat([seen, places], dim=1)), target, grid)


class SmallMasker:
    """Keeps a random number of random tokens of each sample and hides the others: ragged sets."""

    class Config(MaskerSettings):
        """It has no settings of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError for a grid of one token."""
        if grid_size(grid) < 2:
            raise UserError(f"masker small: a grid {grid} has nothing to hide")

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """One context and one target, which together are the grid."""
        tokens = grid_size(grid)
        rank = torch.rand(batch_size, tokens, generator=generator).argsort(1).argsort(1)
        sizes = torch.randint(1, tokens, (batch_size, 1), generator=generator)
        return MaskPlan((IndexSet.from_mask(rank < sizes),), (IndexSet.from_mask(rank >= sizes),))


def ragged_plan(grid: Grid, batch_size: int, seed: int = 0) -> MaskPlan:
    """Two contexts and two targets of every sample, of random lengths, with all four pairs.

    Raises NotAsked on a grid of one token, which cannot be cut in two.
    """
    if grid_size(grid) < 2:
        raise NotAsked("its grid is one token, of which no sets can be made")
    masker = SmallMasker(SmallMasker.Config(name="small"))
    plans = [masker(grid, batch_size, torch.Generator().manual_seed(seed + n)) for n in range(2)]
    return MaskPlan(tuple(plan.contexts[0] for plan in plans), tuple(plan.targets[0] for plan in plans))


def with_padding(index_set: IndexSet, tokens: int) -> IndexSet:
    """The set with two padding sequences after the samples, as a step of fixed shapes has it."""
    rows = index_set.total + 3
    return SetBuckets((rows,), max(3, index_set.max_length), 2).pad(index_set, rows, tokens)


def pick(index_set: IndexSet, samples: Sequence[int]) -> IndexSet:
    """The set with these samples only, in this order."""
    rows = index_set.split()
    return IndexSet.from_lists([rows[sample].tolist() for sample in samples])


def pick_tokens(tokens: Tokens, samples: Sequence[int]) -> Tokens:
    """The tokens of these samples only, in this order."""
    rows = tokens.values.split(tokens.at.lengths.tolist())
    return Tokens(torch.cat([rows[sample] for sample in samples]), pick(tokens.at, samples), tokens.grid)
