"""The variant `lejepa`: every view is projected, and should be the mean of its sample's target views.

    views -> encode_context -> project -> make_targets

What is unusual: nothing is hidden, there is no second encoder, and the gradient flows through the targets
too; a regulariser of the projections (`sigreg`, `vicreg`) keeps them from collapsing. The V views of a
sample travel as the V tokens of a grid `(V,)`, so terms of the loss see what they always see. The first
group of `transform.views` holds the target views; a plain batch of images is one view of each.

Axes: B samples, V views, N patches of a view, D the encoder's width, P the projector's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange, repeat
from pydantic import PositiveInt
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Views
from jepa_core.maskers.none import NoMasks
from jepa_core.nn.identity import NoPredictor
from jepa_core.settings import Settings
from jepa_core.types import Batch, IndexSet, MaskPlan, Tokens
from jepa_core.types.step import Step


class ProjectorSettings(Settings):
    """The MLP between encoder and loss. Probes see the features before it. Its batch norms see one
    micro-batch of one process."""

    hidden: PositiveInt = 2048
    """Width of the two hidden layers."""
    width: PositiveInt = 128
    """Width of the projections, P."""


class LeJEPA(JEPA):
    """Views of an image agree after a projector. Masker, predictor and target update are `none`.

    With `target_update.name=ema` an average of the encoder is kept for probes and takes no part in the loss.
    Raises UserError for a masker or a predictor. Source: LeJEPA (arXiv 2511.08544).
    """

    class Config(JEPA.Config):
        """Settings of the variant."""

        several_views: ClassVar[bool] = True

        target_norm: Literal["none"] = "none"
        """Targets are means of projections as they are."""
        target_layers: Literal[1] = 1
        """Projections are made of the final output."""
        target_gradient: bool = True
        """Whether the gradient flows through the target views' mean too, as in LeJEPA."""
        projector: ProjectorSettings = ProjectorSettings()
        """The MLP between encoder and loss."""

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        for kind, none in {"masker": NoMasks, "predictor": NoPredictor}.items():
            component = parts[kind]
            if not isinstance(component, none):
                raise UserError(
                    f"variant {config.name!r} has no {kind}; "
                    f"got {component.config.name!r}, expected {kind}.name=none"
                )
        self.projector = projector(self.encoder.width, config.projector)

    def views(self, batch: Batch) -> Views:
        """Every group as [B, V, C, H, W]; the first one's views make the targets."""
        whole = len(self.encoder.view_shape()) + 1
        groups = tuple(view.unsqueeze(1) if view.dim() == whole else view for view in batch.views.values())
        return Views(groups, groups[0], batch.condition)

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """Each group encoded once; all views projected; one target a sample, for every view of it."""
        groups: Sequence[Tensor] = self.views(batch).context
        images = [rearrange(views, "b v ... -> (b v) ...") for views in groups]
        contexts = tuple(self.encode_context(views, plan)[0] for views in images)
        predictions = self.project(contexts, batch.batch_size)
        (centre,) = self.make_targets(predictions[0], plan)
        targets = tuple(_for_each_view(centre, of_group.grid[0]) for of_group in predictions)
        return Step(predictions, targets, contexts, contexts[0], plan, batch.step)

    def project(self, contexts: Sequence[Tokens], samples: int) -> tuple[Tokens, ...]:
        """Pooled features [B·V, D] of each group to projections [B·V, P] on a grid `(V,)`.

        All views pass together, so that the norms inside see one batch.
        """
        pooled = [tokens.mean() for tokens in contexts]
        parts = self.projector(torch.cat(pooled)).split([len(features) for features in pooled])
        return tuple(_as_grid(part, samples) for part in parts)

    def make_targets(self, tokens: Tokens, plan: MaskPlan) -> tuple[Tokens, ...]:
        """The mean of each sample's target views, [B, P]."""
        mean = tokens.mean()
        return (_as_grid(mean if self.config.target_gradient else mean.detach(), len(mean)),)

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """None: there are no sets whose tokens one could count."""
        return {}


def projector(width: int, settings: ProjectorSettings) -> nn.Sequential:
    """`width` → hidden → hidden → P, with batch norm and ReLU between.

    The norms keep no running statistics: nothing but the loss looks behind the projector, and so a step that
    is skipped leaves nothing behind.
    """
    sizes = (width, settings.hidden, settings.hidden)
    hidden = [
        layer
        for before, after in pairwise(sizes)
        for layer in (
            nn.Linear(before, after, bias=False),
            nn.BatchNorm1d(after, track_running_stats=False),
            nn.ReLU(),
        )
    ]
    return nn.Sequential(*hidden, nn.Linear(settings.hidden, settings.width))


def _as_grid(values: Tensor, samples: int) -> Tokens:
    """[B·V, P] as the V tokens of each of B samples."""
    views = len(values) // samples
    return Tokens(values, IndexSet.full(samples, views, values.device), (views,))


def _for_each_view(centre: Tokens, views: int) -> Tokens:
    """The one token [B, P] of each sample, once for each of its views."""
    return _as_grid(repeat(centre.values, "b p -> (b v) p", v=views), len(centre.values))
