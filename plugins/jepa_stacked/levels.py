"""A level of a stack: its settings, its networks, how it predicts with the true past and on its own output.

Axes: B samples, N sequences, L windows of a level, S of them seen, K steps of the level below in a window, P
cells, D width, U width of the level above, A numbers of an action, C width of a condition.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor, nn

from jepa_core import UserError
from jepa_core.settings import Settings
from jepa_stacked.networks import LevelPredictor, WindowEncoder


class LevelSettings(Settings):
    """A level. The first one's features are the encoder's."""

    stride: PositiveInt = 1
    """Windows of the level below in one of this level; of the first level 1, a step of the encoder."""
    width: PositiveInt = 64
    """Width of its features; the first level's is the encoder's."""
    shared: bool = False
    """Whether its features are those of the level below in the last step of a window: one latent space for
    both (HWM), with the other's `width`."""
    history: PositiveInt = 1
    """Windows that a prediction is made from."""
    macro: int = Setting(0, ge=0)
    """Width of the macro-action that is made of the actions from one window to the next; 0: none."""
    hidden: PositiveInt = 128
    """Width inside the predictor."""
    depth: PositiveInt = 2
    """Blocks of the predictor."""
    heads: PositiveInt = 4
    """Attention heads, where there are several cells."""


class Level(nn.Module):
    """The networks of a level.

    `frames`: frames of the film in one of its windows; `start`: S, windows that are seen before it predicts;
    `above_stride`: of the level above, where there is one; `subgoal`: the width of what that expects, if it
    is read.
    """

    def __init__(
        self,
        settings: LevelSettings,
        *,
        width: int,
        below: int | None,
        above_stride: int | None,
        subgoal: int,
        frames: int,
        start: int,
        cells: int,
        actions: int,
        prompt: int,
    ) -> None:
        super().__init__()
        self.width, self.stride, self.history = width, settings.stride, settings.history
        self.frames, self.start = frames, start
        self.above_stride = above_stride
        self.encode: WindowEncoder | None = None
        if below is not None and not settings.shared:
            self.encode = WindowEncoder(settings.stride, below, width)
        self.macro: nn.Sequential | None = None
        if settings.macro:
            hidden = 4 * settings.macro
            self.macro = nn.Sequential(
                nn.Linear(frames * actions, hidden), nn.GELU(), nn.Linear(hidden, settings.macro)
            )
        self.split = nn.Linear(2 * subgoal, (above_stride or 0) * subgoal) if subgoal else None
        self.reads_prompt = above_stride is None and prompt > 0
        self.predict = LevelPredictor(
            width,
            settings.history,
            cells,
            hidden=settings.hidden,
            depth=settings.depth,
            heads=settings.heads,
            condition=settings.macro + (prompt if self.reads_prompt else 0),
            subgoal=subgoal,
        )

    def encode_windows(self, below: Tensor) -> Tensor:
        """[B, L, P, D] of the level below's [B, L K, P, U]."""
        if self.encode is None:
            return below[:, self.stride - 1 :: self.stride]
        windows = rearrange(below, "b (l k) p u -> (b l) k p u", k=self.stride)
        encoded: Tensor = self.encode(windows)
        return encoded.unflatten(0, (len(below), -1))

    def split_subgoals(self, last: Tensor, expected: Tensor) -> Tensor:
        """[B, L K, P, U]: of windows of the level above that are expected [B, L, P, U] after its last one
        [B, 1, P, U], what each window and its change say of its K parts here."""
        assert self.split is not None
        change = torch.diff(expected, dim=1, prepend=last)
        parts = self.split(torch.cat([expected, change], dim=-1))
        return rearrange(parts, "b l p (k u) -> b (l k) p u", k=self.above_stride)

    def conditions(self, prompt: Tensor | None, actions: Tensor | None, windows: int) -> Tensor | None:
        """[B, windows - S, C]: what each window that is predicted is told; None where that is nothing.

        `actions` [B, frames - 1, A]: of a window's macro-action the first action leaves the frame before the
        window, the last leads to its last frame.
        """
        parts, count = [], windows - self.start
        if self.reads_prompt:
            assert prompt is not None
            parts.append(prompt[:, None].expand(-1, count, -1))
        if self.macro is not None:
            assert actions is not None
            own = actions[:, self.start * self.frames - 1 : windows * self.frames - 1]
            parts.append(self.macro(rearrange(own, "b (l k) a -> b l (k a)", k=self.frames)))
        return torch.cat(parts, dim=-1) if parts else None

    def force(self, z: Tensor, condition: Tensor | None, goals: Tensor | None) -> Tensor:
        """[B, L - S, P, D]: each window after those seen, from those of z [B, L, P, D] before it."""
        past = z[:, self.start - self.history : -1].unfold(1, self.history, 1).movedim(-1, 2)
        flat = [None if part is None else part.flatten(0, 1) for part in (condition, goals)]
        guess: Tensor = self.predict(past.flatten(0, 1), *flat)
        return guess.unflatten(0, past.shape[:2])

    def roll(self, z: Tensor, condition: Tensor | None, goals: Tensor | None, count: int) -> Tensor:
        """[N, count, P, D]: the windows after those seen of z [N, L, P, D], each from the ones before."""
        past, ahead = z[:, self.start - self.history : self.start], []
        for number in range(count):
            given = [None if part is None else part[:, number] for part in (condition, goals)]
            following = self.predict(past, *given)
            past = torch.cat([past[:, 1:], following[:, None]], dim=1)
            ahead.append(following)
        return torch.stack(ahead, dim=1)

    def roll_in_windows(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """[B, L - S, P, D]: as `roll`, begun anew from z before each window of the level above."""
        k = self.above_stride
        assert k is not None
        past = z[:, self.start - self.history : -k].unfold(1, self.history, k).movedim(-1, 2).flatten(0, 1)
        if condition is not None:
            condition = rearrange(condition, "b (l k) c -> (b l) k c", k=k)
        before = past[:, :1].expand(-1, self.start - self.history, -1, -1)
        ahead = self.roll(torch.cat([before, past], dim=1), condition, None, k)
        return rearrange(ahead, "(b l) k p d -> b (l k) p d", b=len(z))


def make_levels(
    settings: Mapping[str, LevelSettings],
    *,
    width: int,
    cells: int,
    step: int,
    actions: int,
    prompt: int,
    subgoals: bool,
) -> nn.ModuleDict:
    """The levels by name, on an encoder whose step is so many frames, of `cells` tokens of this width.

    `actions`, `prompt`: widths, 0 without; `subgoals`: whether a level reads what the one above expects.
    Raises UserError for a first level of more than a step.
    """
    names, own = list(settings), list(settings.values())
    if own[0].stride != 1:
        raise UserError(
            f"variant.levels.{names[0]} is the first level, one step of the encoder each; its stride is "
            f"{own[0].stride}, expected 1"
        )
    frames = [step]
    for level in own[1:]:
        frames.append(frames[-1] * level.stride)
    seen = max(level.history * span for level, span in zip(own, frames, strict=True))
    seen = -(-seen // frames[-1]) * frames[-1]
    widths = [width]
    for level in own[1:]:
        widths.append(widths[-1] if level.shared else level.width)
    return nn.ModuleDict(
        {
            name: Level(
                own[number],
                width=widths[number],
                below=widths[number - 1] if number else None,
                above_stride=own[number + 1].stride if number + 1 < len(own) else None,
                subgoal=widths[number + 1] if subgoals and number + 1 < len(own) else 0,
                frames=frames[number],
                start=seen // frames[number],
                cells=cells,
                actions=actions,
                prompt=prompt,
            )
            for number, name in enumerate(names)
        }
    )
