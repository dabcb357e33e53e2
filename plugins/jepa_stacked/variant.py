"""Variant `stacked`: levels of prediction, each on the features, or on the predictions, of the one below.

    film -> [encoder] -> level 1    z1             P1(past z1, subgoal) -> next z1    subgoal: of level 2
                      -> level 2    z2 = E2(K z1)  P2(past z2, subgoal) -> next z2    subgoal: of level 3
                      -> top level                 P(past z, prompt)    -> next z

What is unusual:
- a level's history is made of the features below or, for half of the samples in training, of what the level
  below predicted when it was rolled out: a level learns the inputs that it meets when nothing is seen
- the prompt enters at the top and reaches the frames as subgoals: what a level expects of a window, and of
  its change, is split into a condition for each of the window's parts while the level below predicts them; in
  training it is led for half of the samples by what is really there above
- actions reach a level as a macro-action, a small vector that is learned from the actions between two windows
- the encoder is core's interface: of frames a step is a frame, of clips a clip of the length that it takes;
  its weights may be another run's, frozen (`[init.encoder]`)
- each level's comparisons are groups of the step that terms of the loss choose: NAME, with the true past, and
  NAME_rollout; the contexts of both are the level's features, for terms that spread them

Axes: B samples, T frames, L windows of a level, S of them seen, P cells, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from pydantic import Field as Setting
from torch import Tensor

from jepa_core import JEPA, Batch, Field, Group, IndexSet, MaskPlan, Step, Tokens, UserError
from jepa_core.settings.roles import encoder_name
from jepa_core.types import grid_size
from jepa_core.types.fields import first_view
from jepa_stacked.levels import Level, LevelSettings, make_levels
from jepa_stacked.prompts import Given, Prompts, condition_of

ACTIONS = "actions"


class Stacked(JEPA):
    """Levels that predict further and further ahead. Masker and predictor: `none`.

    Raises UserError for levels that do not fit the film or each other, for macro-actions without actions, and
    for prompts that nothing reads.
    Sources: H-JEPA (LeCun 2022, A path towards autonomous machine intelligence); a second level on a frozen
    first, macro-actions: HWM (arXiv 2604.03208).
    """

    class Config(JEPA.Config):
        """Settings of the variant."""

        named_encoders: ClassVar[tuple[str, ...] | None] = None

        target_norm: Literal["none"] = "none"
        """Features are not normalised."""
        target_layers: Literal[1] = 1
        """Targets are made of the final output."""
        target_gradient: bool = True
        """Whether the loss may move the targets, at every level."""
        levels: dict[str, LevelSettings] = Setting(min_length=1)
        """The levels by name, from the frames upwards."""
        prompts: tuple[str, ...] = ()
        """Encoders (`[encoders.NAME]`) that read the prompt, each another kind of it; in training each has
        a share of the samples."""
        beside: tuple[str, ...] = ()
        """Vectors among the source's conditions that belong to the prompt, whatever its kind."""
        prompt_dropout: float = Setting(0.1, ge=0, lt=1)
        """Share of the training samples without a prompt: a learned vector stands for none."""
        on_predictions: float = Setting(0.5, ge=0, le=1)
        """Share of the training samples of which a level reads what the level below predicted, not its
        features, and is led by what the level above predicted, not by what is really there."""
        subgoals: bool = True
        """Whether what a level expects of a window is a condition of the level below while it predicts the
        window's parts; not where actions alone say what comes (HWM)."""
        lower_gradient: bool = False
        """Whether a level's loss moves the levels below it."""

    config: Config

    def __init__(self, config: Config, fields: dict[str, Field] | None = None, **parts: Any) -> None:
        super().__init__(config, **parts)
        if parts["predictor"].config.name != "none":
            raise UserError(
                f"variant {config.name!r} has predictors of its own (variant.levels); got predictor "
                f"{parts['predictor'].config.name!r}, expected predictor.name=none"
            )
        fields, shape = fields or {}, self.encoder.view_shape()
        self.step_frames = shape[1] if len(shape) == 4 else 1
        self.names = tuple(config.levels)
        """Of the levels, from the frames upwards."""
        width = list(config.levels.values())[-1].hidden
        self.prompts = Prompts(config.prompts, config.beside, self.encoders, fields, width)
        self.levels = make_levels(
            config.levels,
            width=self.encoder.width,
            cells=grid_size(self.encoder.grid(shape)),
            step=self.step_frames,
            actions=self._action_width(fields),
            prompt=self.prompts.width,
            subgoals=config.subgoals,
        )
        film = fields.get(f"views.{first_view(fields)}")
        if film is not None and len(film.shape) == 4 and film.shape[1] is not None:
            self.check_film(film.shape[1])

    def _action_width(self, fields: dict[str, Field]) -> int:
        """A; 0 where no level reads actions. Raises UserError where one does and the source has none."""
        readers = [name for name, level in self.config.levels.items() if level.macro]
        field = fields.get(f"condition.{ACTIONS}")
        if readers and field is None:
            raise UserError(
                f"variant.levels.{readers[0]}.macro makes macro-actions of condition.{ACTIONS}, which the "
                f"data source lacks; it has: {', '.join(fields) or 'nothing'}"
            )
        return field.width if readers and field is not None else 0

    def level(self, number: int) -> Level:
        """A level by its number, from the frames upwards; -1 is the top."""
        level = self.levels[self.names[number]]
        assert isinstance(level, Level)
        return level

    @property
    def context(self) -> int:
        """Frames that are seen before anything is predicted."""
        return self.level(-1).start * self.level(-1).frames

    def check_film(self, frames: int) -> None:
        """Raises UserError for films that the levels do not divide, or that end before a prediction does."""
        if frames % self.step_frames:
            raise UserError(
                f"the encoder takes clips of {self.step_frames} frames, which do not divide films of {frames}"
            )
        count = frames // self.step_frames
        for number, name in enumerate(self.names[1:], 1):
            stride = self.level(number).stride
            if count % stride:
                raise UserError(
                    f"variant.levels.{name}.stride is {stride}, which does not divide the {count} windows of "
                    f"{self.names[number - 1]!r} in a film of {frames} frames"
                )
            count //= stride
        if count <= self.level(-1).start:
            raise UserError(
                f"a film of {frames} frames ends before a prediction does: variant.levels sees "
                f"{self.context} frames first and predicts {self.level(-1).frames}"
            )

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """The groups of all levels for films [B, C, T, H, W]; the top level's is the main one."""
        film, given = self.views(batch).context, self.given(batch)
        self.check_film(film.shape[2])
        z = self.features_of_levels(film)
        targets = self._targets(z, film)
        conditions = self._conditions(z, given)
        rolled, goals = self._roll(z, conditions)
        groups: dict[str, Group] = {}
        for number, (name, own) in enumerate(zip(self.names, z, strict=True)):
            level = self.level(number)
            history = self._history(level, own, rolled[number - 1]) if number else own
            forced = level.force(history, conditions[number], goals[number])
            after, seen = _tokens(targets[number][:, level.start :]), _tokens(own)
            groups[name] = Group((_tokens(forced),), (after,), (seen,))
            groups[f"{name}_rollout"] = Group((_tokens(rolled[number]),), (after,), (seen,))
        main = groups[self.names[-1]]
        sides = (main.predictions, main.targets, main.contexts, main.contexts[0])
        return Step(*sides, plan, batch.step, batch.condition, groups)

    def given(self, batch: Batch, kind: str | None = None) -> Given:
        """Prompt and actions of a batch; the prompt of one kind or, without it, of each for its share.

        Raises UserError as `Prompts`, and for missing actions.
        """
        reads_actions = any(level.macro for level in self.config.levels.values())
        actions = condition_of(batch, ACTIONS) if reads_actions else None
        prompt = self.prompts(batch, self.encoders, kind)
        if prompt is not None and self.training and self.config.prompt_dropout:
            prompt = self.prompts.drop(prompt, self.config.prompt_dropout)
        return Given(prompt, actions)

    def features_of_levels(self, film: Tensor, role: str = "context") -> list[Tensor]:
        """[B, L, P, D] of every level, from the frames upwards, of films [B, C, T, H, W]."""
        z = [self.encode_steps(film, role)]
        for number in range(1, len(self.names)):
            z.append(self._encode(self.level(number), z[-1]))
        return z

    def encode_steps(self, film: Tensor, role: str = "context") -> Tensor:
        """[B, L, P, D] of the first level, of films [B, C, T, H, W]."""
        encoder = self.encoder_of(role)
        steps = rearrange(film, "b c (t n) h w -> (b t) c n h w", n=self.step_frames)
        values: Tensor = encoder(steps if len(encoder.view_shape()) == 4 else steps[:, :, 0]).dense()
        return values.unflatten(0, (len(film), -1))

    def _encode(self, level: Level, below: Tensor) -> Tensor:
        return level.encode_windows(below if self.config.lower_gradient else below.detach())

    def _targets(self, z: Sequence[Tensor], film: Tensor) -> list[Tensor]:
        """What is predicted of each level: its features; of the frames a target encoder's, if any."""
        targets = [own if self.config.target_gradient else own.detach() for own in z]
        if self.target_encoder is not None:
            with torch.no_grad():
                targets[0] = self.encode_steps(film, "target")
        return targets

    def _conditions(self, z: Sequence[Tensor], given: Given) -> list[Tensor | None]:
        """What each level's windows are told, [B, L - S, C]."""
        levels = (self.level(number) for number in range(len(z)))
        parts = zip(levels, z, strict=True)
        return [level.conditions(given.prompt, given.actions, own.shape[1]) for level, own in parts]

    def _roll(
        self, z: Sequence[Tensor], conditions: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """For each level its windows when it is rolled out, [B, L - S, P, D], and the subgoals that led it,
        [B, L - S, P, U], None without.

        Towards subgoals, as in `imagine`, but that for some samples they are made of what is really there
        above; by actions alone anew in each window of the level above.
        """
        rolled: list[Tensor] = []
        goals: list[Tensor | None] = []
        for number in reversed(range(len(z))):
            level, own, subgoals = self.level(number), z[number], None
            if rolled and self.config.subgoals:
                real = z[number + 1].detach()[:, self.level(number + 1).start :]
                subgoals = self._subgoals(number, z, self._mix(real, rolled[0].detach()))
            if rolled and subgoals is None:
                ahead = level.roll_in_windows(own, conditions[number])
            else:
                ahead = level.roll(own, conditions[number], subgoals, own.shape[1] - level.start)
            rolled.insert(0, ahead)
            goals.insert(0, subgoals)
        return rolled, goals

    def _subgoals(self, number: int, z: Sequence[Tensor], expected: Tensor) -> Tensor:
        """[B, L K, P, U]: what leads a level to the windows [B, L, P, U] that the one above expects."""
        start = self.level(number + 1).start
        return self.level(number).split_subgoals(z[number + 1][:, start - 1 : start].detach(), expected)

    def _mix(self, real: Tensor, predicted: Tensor) -> Tensor:
        """What a level learns on: what is really there or, for some samples, what was predicted."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device) < self.config.on_predictions
        return torch.where(share, predicted, real)

    def _history(self, level: Level, own: Tensor, rolled: Tensor) -> Tensor:
        """What a level predicts from: its features or, for some samples, those of predictions below."""
        return self._mix(own, torch.cat([own[:, : level.start], self._encode(level, rolled)], dim=1))

    def imagine(self, z: Sequence[Tensor], given: Given, windows: int) -> list[Tensor]:
        """What every level expects of so many of the top level's windows after those seen, [B, L, P, D].

        `z`: the features of each level, of which what is seen is read. Every level goes on its own output,
        and each below the top towards the subgoals that the one above gives it.
        """
        ahead: list[Tensor] = []
        for number in reversed(range(len(self.names))):
            level, goals = self.level(number), None
            count = windows * self.level(-1).frames // level.frames
            if ahead and self.config.subgoals:
                goals = self._subgoals(number, z, ahead[0])
            condition = level.conditions(given.prompt, given.actions, level.start + count)
            ahead.insert(0, level.roll(z[number], condition, goals, count))
        return ahead

    @torch.no_grad()
    def features(self, view: Any, role: str = "target", pool: Literal["mean"] | None = "mean") -> Tensor:
        """[B, D] of the top level's last window of films [B, C, T, H, W], or of images that stand still for
        one; [B, P, D] with `pool=None`. Of a prompt's encoder as the engine's.
        """
        if encoder_name(role):
            return super().features(view, role, pool)
        if view.dim() == 4:
            view = view[:, :, None].expand(-1, -1, self.level(-1).frames, -1, -1)
        z = self.features_of_levels(view, role)[-1][:, -1]
        return z.mean(1) if pool == "mean" else z

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """For each level, the mean squared error of its roll-out over that of what is seen last: below 1 it
        foresees."""
        logged: dict[str, Tensor | float] = {}
        for number, name in enumerate(self.names):
            group, start = step.groups[f"{name}_rollout"], self.level(number).start
            guess, target, own = (
                side[0].dense().detach() for side in (group.predictions, group.targets, group.contexts)
            )
            samples = (len(own) - len(target)) // start
            last = own.unflatten(0, (samples, -1))[:, start - 1, None]
            change = (target.unflatten(0, (samples, -1)) - last).square().mean()
            logged[f"over_copy/{name}"] = (guess - target).square().mean() / change.clamp(min=1e-12)
        return logged


def _tokens(values: Tensor) -> Tokens:
    """Windows [B, L, P, D] as the P tokens of B L samples."""
    b, n, p, _ = values.shape
    return Tokens(values.flatten(0, 2), IndexSet.full(b * n, p, values.device), (p,))
