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
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from jepa_core.errors import UserError, unknown
from jepa_core.maskers.step_masks import ViewMasks
from jepa_core.nn.target_norm import TargetNorm, normalise_targets
from jepa_core.protocols import Encoder, Masker, Predictor, TargetUpdate
from jepa_core.settings.base import VariantSettings
from jepa_core.settings.roles import Role, check_role, encoder_name, is_online, roles_of
from jepa_core.types.batch import Batch
from jepa_core.types.index_set import Grid
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.sample import Fields
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
    online encoder is its own target); `masker` and `target_update` are plain objects. `encoders` are further
    encoders by the name of the view that each reads, for variants that declare them; `target_encoders` those
    of them that have one; `maskers` draw the plans of further views, `plan.of(NAME)`.
    """

    # protocols.Encoder and Predictor that are modules too, which no one type can say
    encoder: Any
    predictor: Any
    target_encoder: Any
    objectives: Any
    encoders: Any
    target_encoders: Any
    transforms: Any
    """Of its run (`data.field_transforms.pipeline.FieldTransforms`); None where samples are images alone."""
    fields: Fields
    """What each value of a sample is, after transforms, by its place; empty where nobody said."""

    class Config(VariantSettings):
        target_norm: TargetNorm = "layer"
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
        encoders: Mapping[str, Encoder] | None = None,
        target_updates: Mapping[str, TargetUpdate] | None = None,
        maskers: Mapping[str, ViewMasks] | None = None,
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
        self.encoders = nn.ModuleDict(dict(encoders or {}))  # type: ignore[arg-type]  # modules too
        self.target_updates = dict(target_updates or {})
        made = {name: own.make_target(self.encoders[name]) for name, own in self.target_updates.items()}
        self.target_encoders = nn.ModuleDict({k: target for k, target in made.items() if target is not None})
        self.maskers = dict(maskers or {})
        self.fields, self.transforms = {}, None
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
        return Tokens(normalise_targets(tokens, self.config.target_norm), tokens.at, tokens.grid)

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
        """Moves the target encoders after optimizer step `step` (0-based) of `total_steps`, by default the
        model's own; returns what to log, `momentum` of the main one and `momentum/NAME` of a named one."""
        total = self.total_steps if total_steps is None else total_steps
        logged: dict[str, float] = {}
        if self.target_encoder is not None:
            logged |= self.target_update.update(self.target_encoder, self.encoder, step, total)
        for name, target in self.target_encoders.items():
            values = self.target_updates[name].update(target, self.encoders[name], step, total)
            logged |= {f"{key}/{name}": value for key, value in values.items()}
        return logged

    def roles(self) -> tuple[Role, ...]:
        """The roles of its encoders: `target`, `context`, and NAME and NAME/context of each named one."""
        return roles_of(self.encoders)

    def encoder_of(self, role: Role) -> Any:
        """The encoder of a role (`protocols.Encoder`): the online one where it has no target encoder.

        Raises UserError for an unknown role.
        """
        check_role(role, self.encoders)
        name = encoder_name(role)
        if not name:
            return self.encoder if is_online(role) or self.target_encoder is None else self.target_encoder
        has_target = name in self.target_encoders and not is_online(role)
        return self.target_encoders[name] if has_target else self.encoders[name]

    @torch.no_grad()
    def features(
        self,
        view: Any,
        role: Role = "target",
        pool: Literal["mean"] | None = "mean",
    ) -> Tensor:
        """Features of whole views [B, C, H, W], or of what else the encoder of `role` reads: [B, D] averaged
        over tokens, or [B, N, D] with `pool=None`.

        The target encoder is the one the I-JEPA paper evaluates (App. A.1). Raises UserError for an unknown
        role or pooling, and for tokens of ragged views that are not pooled.
        """
        if pool not in ("mean", None):
            raise unknown("pool", str(pool), ("mean", "None"))
        tokens: Tokens = self.encoder_of(role)(view)
        if pool is None and tokens.at.uniform is None:
            lengths = tokens.at.lengths
            raise UserError(
                f"features of every token need views of one length; the {role} encoder's have "
                f"{lengths.min()} to {lengths.max()} tokens; take their mean (pool='mean')"
            )
        return tokens.mean() if pool == "mean" else tokens.dense()

    def grid(self, role: Role = "context") -> Grid:
        """The token grid of a view of the size in the settings of a role's encoder."""
        encoder = self.encoder_of(role)
        grid: Grid = encoder.grid(encoder.view_shape())
        return grid

    def view_of(self, role: Role) -> str | None:
        """The name of the view that a role's encoder reads; None for the first one of a batch."""
        return encoder_name(role) or None

    def _check_plan(self, plan: MaskPlan | None, batch_size: int) -> MaskPlan:
        if plan is None:
            raise ValueError(
                "a mask plan is needed: model(batch, plan). "
                "jepa_core.sample_masks(model, batch_size, seed, step) draws one"
            )
        plan.check_batch(batch_size)
        return plan


def _detach(tokens: Tokens) -> Tokens:
    return Tokens(tokens.values.detach(), tokens.at, tokens.grid, tuple(v.detach() for v in tokens.layers))
