"""A variant: each frame's patches are predicted from those of the frame before and the action between them.

Axes: B samples, T frames, N patches of a frame, A width of an action, D width of the features.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field as Setting
from torch import Tensor

from jepa_core import JEPA, Batch, Field, Group, IndexSet, MaskPlan, Step, Tokens, UserError


class WorldModel(JEPA):
    """Encoder and predictor of single frames; the predictor also reads the action. Masker: `none`."""

    class Config(JEPA.Config):
        horizon: int = Setting(3, ge=1)
        """Frames after the first that `rollout` predicts, each from the prediction of the one before."""

    def __init__(self, config: Config, fields: dict[str, Field] | None = None, **parts: Any) -> None:
        actions = (fields or {}).get("condition.actions", Field("sequence", (0,)))
        if (actions.shape[0] or 0) < config.horizon:
            raise UserError(f"{config.name} needs {config.horizon} condition.actions; got {actions.shape[0]}")
        super().__init__(config, **parts)

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """The main group: all frames but the first. `rollout`: the `horizon` frames after the first."""
        views, b = self.views(batch), batch.batch_size
        frames, actions = views.context.transpose(1, 2).flatten(0, 1), views.condition["actions"]
        (seen,) = self.encode_context(frames, plan)
        (targets,) = self.make_targets(self.encode_target(frames, plan), plan)
        guess = self.predict_next(take_frames(seen, b, 0, -1), actions.flatten(0, 1))
        state, ahead, reached = take_frames(seen, b, 0, 1), (), ()
        for t in range(self.config.horizon):
            state = self.predict_next(state, actions[:, t])
            ahead, reached = (*ahead, state), (*reached, take_frames(targets, b, t + 1, t + 2))
        pair, rollout = ((guess,), (take_frames(targets, b, 1, None),)), Group(ahead, reached)
        return Step(*pair, (seen,), targets, plan, batch.step, views.condition, {"rollout": rollout})

    def predict_next(self, state: Tokens, actions: Tensor) -> Tokens:
        """The frames after these, [B·N, D], when these actions [B, A] are taken."""
        return self.predict((state,), MaskPlan((state.at,), (state.at,)), {"actions": actions})[0]

    def features(self, view: Tensor, role: str = "target", pool: str | None = "mean") -> Tensor:
        """Of clips [B, C, T, H, W] those of the last frame; of images as ever."""
        return super().features(view[:, :, -1] if view.dim() == 5 else view, role, pool)


def take_frames(tokens: Tokens, samples: int, first: int, end: int | None) -> Tokens:
    """The tokens of some frames of each sample, of those of all B·T frames."""
    values = tokens.dense().unflatten(0, (samples, -1))[:, first:end].flatten(0, 1)
    return Tokens(values.flatten(0, 1), IndexSet.full(*values.shape[:2], values.device), tokens.grid)
