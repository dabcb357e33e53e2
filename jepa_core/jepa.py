"""The engine: one step of any joint-embedding predictive architecture, as a chain of short stages.

    views -> encode_target -> make_targets
          -> encode_context -> predict      -> objectives -> Output;   update_target after the optimizer

Each stage is a method with an I-JEPA-shaped default. A variant that only swaps parts is a recipe; one
that changes the flow subclasses `JEPA` and overrides stages. No hook is called in here, no method is
named: torch.compile, DDP and FSDP see an ordinary module.

Axes: B samples, S packed tokens, N tokens of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError, unknown
from jepa_core.protocols import Encoder, Masker, Predictor, TargetUpdate
from jepa_core.settings.base import ComponentSettings
from jepa_core.types.batch import Batch
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.step import Step
from jepa_core.types.tokens import Tokens


@dataclass(frozen=True)
class Views:
    """The context input, the target input, and the predictor's condition.

    Tensors, unless a variant's own stages take something else.
    """

    context: Any
    target: Any
    condition: Any = None


@dataclass(frozen=True)
class Output:
    """`loss` is the weighted sum of `terms` (each unweighted, named as in the recipe); both scalars.

    `metrics` are scalars for the log. `step` holds the features the loss was made of.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor | float]
    step: Step

    def detach(self) -> Output:
        """The same values without the graph of their gradients."""
        terms = {name: term.detach() for name, term in self.terms.items()}
        metrics = {k: v.detach() if isinstance(v, Tensor) else v for k, v in self.metrics.items()}
        return Output(self.loss.detach(), terms, metrics, self.step.map(_detach))


class JEPA(nn.Module):
    """Encoder, target encoder, predictor, masker and objectives, joined by stages.

    `encoder`, `predictor` and `target_encoder` are torch modules (`target_encoder` is None where the
    online encoder is its own target); `masker` and `target_update` are plain objects.
    """

    # protocols.Encoder and Predictor that are modules too, which no one type can say
    encoder: Any
    predictor: Any
    target_encoder: Any
    objectives: Any

    class Config(ComponentSettings):
        several_views: ClassVar[bool] = False
        """Whether it trains on the groups of `transform.views`, each [B, V, C, H, W], instead of one view."""

        target_norm: Literal["layer", "batch", "position", "none"] = "layer"
        """What is done to the target features: `layer` norm over the width without affine (I-JEPA);
        `batch`: each feature to mean 0 and std 1 over all tokens of the batch, so that no feature is
        constant; `position` subtracts the batch mean at each place of the grid before the layer norm, so
        that a place alone predicts nothing; or `none`."""
        target_layers: int = Field(1, ge=1)
        """Targets average the last so many blocks, each layer-normed (data2vec); 1: the final output."""
        target_gradient: bool = False
        """Whether the loss may move the target branch."""

    def __init__(
        self,
        config: Config,
        *,
        encoder: Encoder,
        predictor: Predictor,
        masker: Masker,
        target_update: TargetUpdate,
        objectives: Mapping[str, nn.Module],
        total_steps: int = 1,
    ) -> None:
        super().__init__()
        if config.target_layers > encoder.depth:
            raise UserError(
                f"setting 'variant.target_layers' is {config.target_layers}; "
                f"the encoder has {encoder.depth} blocks"
            )
        self.config = config
        self.encoder = encoder
        self.predictor = predictor
        self.masker = masker
        self.target_update = target_update
        self.objectives = nn.ModuleDict(dict(objectives))
        self.target_encoder = target_update.make_target(self.encoder)
        self.total_steps = total_steps
        self.frozen_parts: tuple[str, ...] = ()
        """Modules that training leaves as they are, by path; `build_model` freezes them."""

    def train(self, mode: bool = True) -> JEPA:
        """Training or evaluation mode; parts that are frozen are in evaluation mode in either."""
        super().train(mode)
        for part in self.frozen_parts:
            self.get_submodule(part).eval()
        return self

    def forward(self, batch: Batch | Tensor, plan: MaskPlan | None = None) -> Output:
        """Loss and features of one batch; a plain tensor is taken as images [B, C, H, W].

        Raises ValueError where the plan is missing or speaks of another batch size.
        """
        batch = Batch.of(batch)
        step = self.run_stages(batch, self._check_plan(plan, batch.batch_size))
        with torch.autocast(batch.device.type, enabled=False):
            terms = {
                name: objective(step.of_group(objective.config.group))
                for name, objective in self.objectives.items()
            }
        weighted = [self.objectives[name].config.weight * term for name, term in terms.items()]
        return Output(torch.stack(weighted).sum(), terms, self.metrics(step), step)

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """The stages in order."""
        views = self.views(batch)
        target_tokens = self.encode_target(views.target, plan)
        targets = self.make_targets(target_tokens, plan)
        contexts = self.encode_context(views.context, plan)
        predictions = self.predict(contexts, plan, views.condition)
        return Step(predictions, targets, contexts, target_tokens, plan, batch.step, views.condition)

    def views(self, batch: Batch) -> Views:
        """The first view is both context and target."""
        view = next(iter(batch.views.values()))
        return Views(view, view, batch.condition)

    def encode_target(self, view: Tensor, plan: MaskPlan) -> Tokens:
        """Features of the whole target view, [B·N, D]; without gradient unless the setting says so."""
        encoder = self.encoder if self.target_encoder is None else self.target_encoder
        depth, count = encoder.depth, self.config.target_layers
        layers = tuple(range(depth - count + 1, depth + 1)) if count > 1 else ()
        with torch.set_grad_enabled(self.config.target_gradient and torch.is_grad_enabled()):
            return encoder(view, layers=layers)

    def make_targets(self, tokens: Tokens, plan: MaskPlan) -> tuple[Tokens, ...]:
        """What is to be predicted, one `Tokens` a pair: normalised features at the target's places."""
        whole = self.normalise(tokens)
        if plan.empty:
            return (whole,)
        gathered = [whole.gather(target) for target in plan.targets]
        return tuple(gathered[j] for _, j in plan.pairs)

    def normalise(self, tokens: Tokens) -> Tokens:
        """Target features [B·N, D] after averaging layers and normalising, as `config` says."""
        values = tokens.values.float() if tokens.values.dtype != torch.float64 else tokens.values
        if tokens.layers:
            values = torch.stack([_layer_norm(layer.to(values.dtype)) for layer in tokens.layers]).mean(0)
        if self.config.target_norm == "position":
            grid = values.view(tokens.at.batch_size, -1, tokens.width)
            values = (grid - grid.mean(0)).reshape(values.shape)
        if self.config.target_norm == "batch":
            values = (values - values.mean(0)) / (values.std(0) + 1e-3)
        elif self.config.target_norm != "none":
            values = _layer_norm(values)
        return Tokens(values, tokens.at, tokens.grid)

    def encode_context(self, view: Tensor, plan: MaskPlan) -> tuple[Tokens, ...]:
        """Features of the visible tokens, one `Tokens` a context; of the whole view for an empty plan."""
        if plan.empty:
            return (self.encoder(view),)
        return tuple(self.encoder(view, keep) for keep in plan.contexts)

    def predict(self, contexts: tuple[Tokens, ...], plan: MaskPlan, condition: Any) -> tuple[Tokens, ...]:
        """Predicted features at the target's places, one `Tokens` a pair."""
        return self.predictor(contexts, plan, contexts[0].grid, condition)

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """Scalars that cost nothing: context and target tokens of a sample, averaged over the sets."""
        contexts, targets = step.plan.contexts, step.plan.targets
        size = step.plan.batch_size or 1
        return {
            "context_tokens": sum(s.total for s in contexts) / size / max(1, len(contexts)),
            "target_tokens": sum(s.total for s in targets) / size / max(1, len(targets)),
        }

    def update_target(self, step: int, total_steps: int | None = None) -> dict[str, float]:
        """Moves the target encoder after optimizer step `step` (0-based) of `total_steps`, by default the
        model's own; returns what to log."""
        if self.target_encoder is None:
            return {}
        total = self.total_steps if total_steps is None else total_steps
        return self.target_update.update(self.target_encoder, self.encoder, step, total)

    @torch.no_grad()
    def features(
        self,
        images: Tensor,
        role: Literal["target", "context"] = "target",
        pool: Literal["mean"] | None = "mean",
    ) -> Tensor:
        """Features of whole images [B, C, H, W]: [B, D] averaged over tokens, or [B, N, D] with `pool=None`.

        `role` picks the encoder; the target encoder is the one the I-JEPA paper evaluates (App. A.1).
        """
        if role not in ("target", "context"):
            raise unknown("role", role, ("target", "context"))
        if pool not in ("mean", None):
            raise unknown("pool", str(pool), ("mean", "None"))
        encoder = self.encoder
        if role == "target" and self.target_encoder is not None:
            encoder = self.target_encoder
        tokens: Tokens = encoder(images)
        return tokens.mean() if pool == "mean" else tokens.dense()

    def grid(self) -> Grid:
        """The token grid of a view of the size in the encoder's settings."""
        grid: Grid = self.encoder.grid(self.encoder.view_shape())
        return grid

    def _check_plan(self, plan: MaskPlan | None, batch_size: int) -> MaskPlan:
        if plan is None:
            raise ValueError(
                "a mask plan is needed: model(batch, plan). "
                "jepa_core.sample_masks(model, batch_size, seed, step) draws one"
            )
        if plan.batch_size not in (None, batch_size):
            raise ValueError(f"the plan masks {plan.batch_size} samples; the batch has {batch_size}")
        return plan


def _detach(tokens: Tokens) -> Tokens:
    return Tokens(tokens.values.detach(), tokens.at, tokens.grid, tuple(v.detach() for v in tokens.layers))


def _layer_norm(values: Tensor) -> Tensor:
    return F.layer_norm(values, values.shape[-1:])
