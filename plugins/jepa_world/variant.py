"""The variant `world`: the tokens of a frame are predicted from those of the frames before and from actions.

    film -> frames -> encode -> pool, project -> teacher-forced: frames t-F+1 … t, their actions -> frame t+1
                                              -> rolled out:      K steps on its own output

What is unusual:
- action a_t leaves frame t, is read at position t, and predicts frame t + 1
- the action that leaves a frame travels with the frame's tokens, so that a state of the world model is one
  tensor, and a step of it is a function (state, action) -> state, which is all that planners see
- every comparison is a named group, and terms of the loss choose: the main one is teacher-forced, `rollout`
  compares K steps, `actions` what an inverse model reads off two frames, `smooth` each frame with the one
  before; `frames` holds the tokens of each time step alone, for regularisers that judge the batch at one time

Axes: B samples, T frames, F frames of a history, K steps, P tokens of a frame, D width, A numbers of an
action.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor, nn

from jepa_core import JEPA, Batch, Field, Group, IndexSet, MaskPlan, Step, Tokens, UserError
from jepa_core.planning import PlannerSettings
from jepa_core.settings import Settings

ACTIONS = "condition.actions"


class ProjectorSettings(Settings):
    """What is made of a frame's tokens before they are predicted."""

    kind: Literal["none", "norm", "mlp"] = "none"
    """`none`; `norm`: batch norm without affine; `mlp`: Linear, batch norm, GELU, Linear, batch norm
    (LeWM)."""
    hidden: PositiveInt = 2048
    """Width of the MLP's hidden layer."""


class WorldModel(JEPA):
    """A world model: encoder of single frames, predictor that reads actions. Masker: `none`.

    With `target_update.name=ema` the targets are an average encoder's; with `none` the encoder's own, with
    gradient where `target_gradient` says so. Raises UserError for a source without actions, or with windows
    that are too short for history and horizon.
    Sources: LeWM (arXiv 2603.19312), PLDM (2502.14819), DINO-WM (2411.04983), V-JEPA 2-AC (2506.09985).
    """

    class Config(JEPA.Config):
        """Settings of the variant."""

        target_norm: Literal["layer", "none"] = "none"
        """Layer norm without affine of the frames' tokens before they are predicted (V-JEPA 2-AC), or
        none."""
        target_layers: Literal[1] = 1
        """Targets are made of the final output."""
        target_gradient: bool = True
        """Whether the loss may move the targets."""
        pool: bool = True
        """Whether a frame is one token, the mean of the encoder's; if not, all its patches (DINO-WM)."""
        history: PositiveInt = 1
        """Frames that a prediction is made from, F."""
        horizon: PositiveInt = 4
        """Steps of the roll-out, K, each from the prediction of the one before."""
        projector: ProjectorSettings = ProjectorSettings()
        """Between encoder and predictor."""
        channels: int = Setting(0, ge=0)
        """Width of an embedding of the action that is added to each token of its frame by a linear map: what
        further channels do (DINO-WM); with `predictor.condition = "ignore"`. 0: none."""
        inverse: int = Setting(0, ge=0)
        """Hidden width of the inverse model of the group `actions`, which reads an action off two frames; 0:
        none."""
        planner: PlannerSettings = PlannerSettings()
        """How `jepa plan` plans."""

        def check(self) -> None:
            """Raises UserError for a planner's settings that contradict each other."""
            self.planner.check("variant.planner")

    config: Config

    def __init__(self, config: Config, fields: dict[str, Field] | None = None, **parts: Any) -> None:
        actions = (fields or {}).get(ACTIONS)
        if actions is None or len(actions.shape) != 2 or None in actions.shape:
            raise UserError(
                f"variant {config.name!r} needs condition.actions, a sequence of one length, from the data "
                f"source; it has: {', '.join(fields or {}) or 'nothing'}"
            )
        self.check_context(config, (actions.shape[0] or 0) + 1)
        super().__init__(config, **parts)
        width, self.action_width = self.encoder.width, actions.width
        self.projector = projector(width, config.projector)
        self.channels = self.inverse = None
        if config.channels:
            self.channels = nn.Sequential(
                nn.Linear(self.action_width, config.channels), nn.Linear(config.channels, width)
            )
        if config.inverse:
            self.inverse = nn.Sequential(
                nn.Linear(2 * width, config.inverse), nn.GELU(), nn.Linear(config.inverse, self.action_width)
            )

    @staticmethod
    def check_context(config: Config, frames: int) -> None:
        """Raises UserError where windows of so many frames do not hold a history and the roll-out after
        it."""
        if config.history + config.horizon > frames:
            raise UserError(
                f"variant.history {config.history} and variant.horizon {config.horizon} need windows of "
                f"{config.history + config.horizon} frames; data.frames is {frames}"
            )

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """All groups of one batch of films [B, C, T, H, W]."""
        views, b = self.views(batch), batch.batch_size
        frames, actions = rearrange(views.context, "b c t h w -> (b t) c h w"), views.condition["actions"]
        z = self.states(frames).unflatten(0, (b, -1))
        targets = self._targets(z, frames)
        f, k = self.config.history, self.config.horizon
        past = z[:, :-1].unfold(1, f, 1).movedim(-1, 2).flatten(0, 1)
        guess = self.predict_next(past, actions.unfold(1, f, 1).movedim(-1, 2).flatten(0, 1))
        state = self.start(z[:, :f], actions[:, : f - 1])
        rolled = self.roll_out(state, actions[:, f - 1 : f - 1 + k])
        groups = {
            "rollout": _pair(rolled.flatten(0, 1), targets[:, f : f + k].flatten(0, 1)),
            "smooth": _pair(z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1)),
            "frames": Group((), (), tuple(map(_tokens, z.unbind(1)))),
        }
        if self.inverse is not None:
            pooled = z.mean(2)
            read = self.inverse(torch.cat([pooled[:, :-1], pooled[:, 1:]], dim=-1))
            groups["actions"] = _pair(read.flatten(0, 1)[:, None], actions.flatten(0, 1)[:, None])
        main = _pair(guess, targets[:, f:].flatten(0, 1))
        seen = _tokens(z.flatten(0, 1))
        return Step(main.predictions, main.targets, (seen,), seen, plan, batch.step, views.condition, groups)

    def _targets(self, z: Tensor, frames: Tensor) -> Tensor:
        """[B, T, P, D]: the frames' states, or those of the target encoder."""
        if self.target_encoder is not None:
            with torch.no_grad():
                return self.states(frames, "target").unflatten(0, z.shape[:2])
        return z if self.config.target_gradient else z.detach()

    def states(self, frames: Tensor, role: str = "context") -> Tensor:
        """[N, P, D]: what is predicted of frames [N, C, H, W], after pooling and projection.

        To an encoder of clips a frame is one that stands still (V-JEPA 2-AC doubles it to a tubelet).
        """
        encoder = self.encoder_of(role)
        if len(encoder.view_shape()) == 4:
            frames = frames[:, :, None].expand(-1, -1, encoder.view_shape()[1], -1, -1)
        values = encoder(frames).dense()
        if self.config.pool:
            values = values.mean(1, keepdim=True)
        return self._normalise(self.projector(values.flatten(0, 1)).view(values.shape))

    def _normalise(self, values: Tensor) -> Tensor:
        """Tokens [..., D] as `target_norm` says, predictions as well as states."""
        is_layer = self.config.target_norm == "layer"
        return nn.functional.layer_norm(values, values.shape[-1:]) if is_layer else values

    def predict_next(self, past: Tensor, actions: Tensor) -> Tensor:
        """[N, P, D]: the frames after histories [N, F, P, D], whose frames these actions [N, F, A] leave."""
        n, f, p, _ = past.shape
        if self.channels is not None:
            past = past + self.channels(actions)[:, :, None]
        cells = self.encoder.grid(self.encoder.view_shape())[-2:] if p > 1 else ()
        grid = (f, *cells)
        at = IndexSet.full(n, f * p, past.device)
        last = IndexSet.from_dense(torch.arange((f - 1) * p, f * p, device=past.device).expand(n, p))
        context = Tokens(past.flatten(0, 2), at, grid)
        (guess,) = self.predictor((context,), MaskPlan((at,), (last,)), grid, {"actions": actions})
        return self._normalise(guess.values.view(n, p, -1))

    def start(self, z: Tensor, actions: Tensor | None = None) -> Tensor:
        """The state [N, F, P·D + A] of histories z [N, F, P, D] and the actions [N, F - 1, A] between.

        Of one frame [N, P, D] the history is that frame, standing still.
        """
        if z.dim() == 3:
            z = z[:, None].expand(-1, self.config.history, -1, -1)
        n, f = z.shape[:2]
        left = z.new_zeros(n, f, self.action_width)
        if actions is not None:
            left = torch.cat([actions, left[:, :1]], dim=1)
        return torch.cat([z.flatten(2), left], dim=2)

    def advance(self, state: Tensor, action: Tensor) -> Tensor:
        """The state [N, F, P·D + A] after actions [N, A]: the closure (z, a) -> z of planners."""
        z, left = self.split(state)
        left = torch.cat([left[:, :-1], action[:, None]], dim=1)
        following = self.predict_next(z, left)
        return self.start(torch.cat([z[:, 1:], following[:, None]], dim=1), left[:, 1:])

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens [N, F, P, D] and actions [N, F, A] of a state."""
        z, left = state.split([state.shape[-1] - self.action_width, self.action_width], dim=-1)
        return z.unflatten(-1, (-1, self.encoder.width)), left

    def newest(self, state: Tensor) -> Tensor:
        """[N, P, D]: the tokens of a state's last frame."""
        return self.split(state)[0][:, -1]

    def roll_out(self, state: Tensor, actions: Tensor) -> Tensor:
        """[N, K, P, D]: the frames that actions [N, K, A] lead to, each predicted from the ones before."""
        ahead = []
        for action in actions.unbind(1):
            state = self.advance(state, action)
            ahead.append(self.newest(state))
        return torch.stack(ahead, dim=1)

    @torch.no_grad()
    def features(self, view: Tensor, role: str = "target", pool: Literal["mean"] | None = "mean") -> Tensor:
        """[B, D] of images, and of the last frame of clips [B, C, T, H, W]; [B, P, D] with `pool=None`."""
        z = self.states(view[:, :, -1] if view.dim() == 5 else view, role)
        return z.mean(1) if pool == "mean" else z

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """The mean squared error of the roll-out over that of frames one step apart: below 1 it foresees."""
        rollout, smooth = (
            (group.predictions[0].values - group.targets[0].values).detach().square().mean()
            for group in (step.groups["rollout"], step.groups["smooth"])
        )
        return {"rollout_over_step": rollout / smooth.clamp(min=1e-12)}


def projector(width: int, settings: ProjectorSettings) -> nn.Module:
    """The module that settings ask for, from [N, D] to [N, D]."""
    if settings.kind == "none":
        return nn.Identity()
    norm = nn.BatchNorm1d(width, affine=False)
    if settings.kind == "norm":
        return norm
    hidden = settings.hidden
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, width), norm
    )


def _tokens(values: Tensor) -> Tokens:
    """[N, P, D] as the P tokens of N samples."""
    n, p, _ = values.shape
    return Tokens(values.flatten(0, 1), IndexSet.full(n, p, values.device), (p,))


def _pair(predictions: Tensor, targets: Tensor) -> Group:
    return Group((_tokens(predictions),), (_tokens(targets),))
