"""Checks of predictors (`protocols.Predictor`), on grids of one, two and three axes.

A predictor without parameters returns the contexts unchanged, and is checked on plans without masks only.

Axes: B samples, S packed tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from jepa_core.assembly import build_model, random_batch
from jepa_core.errors import UserError
from jepa_core.runtime.plugin_calls import PluginError, call_plugin
from jepa_core.settings.recipe import Recipe
from jepa_core.testing.outcomes import NotAsked, require, require_equal, untouched_randomness
from jepa_core.testing.random_views import CONDITIONS, pick_condition, random_conditions, takes
from jepa_core.testing.small_parts import SmallEncoder, pick, pick_tokens, ragged_plan, with_padding
from jepa_core.testing.subject import Subject
from jepa_core.types.index_set import Grid, grid_size
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens

GRIDS: tuple[Grid, ...] = ((7,), (3, 5), (2, 3, 4))
BATCH, TARGET_WIDTH, CLOSE = 3, 24, 1e-4
NUDGE = 0.02
"""How far weights are moved from where they start, at random."""


@dataclass(frozen=True)
class Setting:
    """A predictor on one grid, with a plan and the context features for it."""

    predictor: Any
    contexts: tuple[Tokens, ...]
    plan: MaskPlan
    grid: Grid
    target_width: int
    condition: Any = None
    """Conditions by name, for a predictor that needs one; else None."""

    def predict(self, **changes: Any) -> tuple[Tokens, ...]:
        """The predictions, one `Tokens` for each pair; `changes` to what it is given."""
        own = replace(self, **changes)
        condition = () if own.condition is None else (own.condition,)
        predictions: tuple[Tokens, ...] = own.predictor(own.contexts, own.plan, own.grid, *condition)
        return predictions

    def with_condition(self, condition: Any) -> Setting:
        """With this condition, where the predictor fails without one."""
        try:
            call_plugin(self.predict)
        except PluginError:
            return replace(self, condition=condition)
        return self


@dataclass(frozen=True)
class PredictorCase:
    """A predictor, built for each grid."""

    subject: Subject
    recipe: Recipe | None = None
    """One that uses it, for a predictor that needs another encoder than the small one, or other fields."""

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """The grids that it is built for; with a recipe the one of its encoder."""
        if self.recipe is None:
            return GRIDS
        encoder = build_model(self.recipe).encoder
        return (encoder.grid(encoder.view_shape()),)

    def make(self, grid: Grid, seed: int = 0) -> tuple[Any, Any]:
        """The predictor and the encoder it is built for. Raises UserError where it refuses the grid."""
        predictor, encoder = (
            self._of_small_encoder(grid, seed) if self.recipe is None else self._of_recipe(seed)
        )
        with torch.no_grad():
            for parameter in predictor.parameters():  # so that what starts at zero does something
                parameter.add_(torch.randn_like(parameter), alpha=NUDGE)
        return predictor, encoder

    def _of_small_encoder(self, grid: Grid, seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        encoder = SmallEncoder(SmallEncoder.Config(name="small", sides=grid))
        component = self.subject.component
        described = {"fields": CONDITIONS} if takes(component, "fields") else {}
        return component(self.subject.config, encoder, TARGET_WIDTH, **described).eval(), encoder

    def _of_recipe(self, seed: int) -> tuple[Any, Any]:
        assert self.recipe is not None
        torch.manual_seed(seed)
        model = build_model(self.recipe, seed=seed).eval()
        return model.predictor, model.encoder

    def target_width(self, encoder: Any) -> int:
        """The width of its predictions."""
        return TARGET_WIDTH if self.recipe is None else encoder.width

    def inputs(self, encoder: Any) -> tuple[Any, Any]:
        """Random views of B samples for the encoder, and conditions by name."""
        draw = torch.Generator().manual_seed(0)
        if self.recipe is None:
            return torch.randn(BATCH, *encoder.view_shape(), generator=draw), random_conditions(BATCH)
        batch = random_batch(self.recipe, build_model(self.recipe), BATCH, draw)
        return next(iter(batch.views.values())), batch.condition

    def settings(self) -> Iterator[Setting]:
        """One for each grid that the predictor accepts. Raises the last UserError where it accepts none."""
        refusal: UserError | None = None
        accepted = 0
        for grid in self.grids:
            try:
                predictor, encoder = self.make(grid)
            except UserError as error:
                refusal = error
                continue
            accepted += 1
            if not list(predictor.parameters()):
                raise NotAsked("it has no parameters, and passes contexts on")
            plan = ragged_plan(grid, BATCH)
            views, condition = self.inputs(encoder)
            with torch.no_grad():
                contexts = tuple(encoder(views, context) for context in plan.contexts)
                width = self.target_width(encoder)
                setting = Setting(predictor, contexts, plan, grid, width).with_condition(condition)
            yield setting
        if refusal and not accepted:
            raise refusal

    @torch.no_grad()
    def predict_once(self) -> None:
        """Builds it and predicts on each grid that it accepts."""
        for setting in self.settings():
            setting.predict()


@torch.no_grad()
def a_prediction_a_pair(case: PredictorCase) -> None:
    """Each pair of the plan gets features [S, target width] at its target's places, sets ragged."""
    for setting in case.settings():
        predictions = setting.predict()
        _require_count(predictions, setting.plan)
        for tokens, (i, j) in zip(predictions, setting.plan.pairs, strict=True):
            target = setting.plan.targets[j]
            size, shape = (target.total, setting.target_width), tuple(tokens.values.shape)
            require(shape == size, f"on a grid {setting.grid}, pair {(i, j)}: {size} expected, got {shape}")
            equal = torch.equal(tokens.at.index, target.index)
            require(equal, f"on a grid {setting.grid}, pair {(i, j)} stands at other places than its target")


@torch.no_grad()
def order_of_pairs(case: PredictorCase) -> None:
    """Predictions come in the order of the plan's pairs, and a pair's own does not depend on the others."""
    for setting in case.settings():
        plan = setting.plan
        expected = dict(zip(plan.pairs, setting.predict(), strict=True))
        for pairs in (plan.pairs[::-1], plan.pairs[1:3]):
            fewer = MaskPlan(plan.contexts, plan.targets, pairs)
            predictions = setting.predict(plan=fewer)
            _require_count(predictions, fewer)
            for pair, tokens in zip(pairs, predictions, strict=True):
                require_equal(tokens.values, expected[pair].values, f"pair {pair} among {pairs}", CLOSE)


@torch.no_grad()
def batch_mates(case: PredictorCase) -> None:
    """A sample's predictions do not depend on the others of its batch."""
    for setting in case.settings():
        together = setting.predict()
        for order in ([1], [2, 0]):
            plan = MaskPlan(
                tuple(pick(index_set, order) for index_set in setting.plan.contexts),
                tuple(pick(index_set, order) for index_set in setting.plan.targets),
                setting.plan.pairs,
            )
            contexts = tuple(pick_tokens(tokens, order) for tokens in setting.contexts)
            condition = pick_condition(setting.condition, order)
            predictions = setting.predict(contexts=contexts, plan=plan, condition=condition)
            for actual, whole in zip(predictions, together, strict=True):
                expected = pick_tokens(whole, order).values
                require_equal(actual.values, expected, f"samples {order} without their batch-mates", CLOSE)


@torch.no_grad()
def fillers(case: PredictorCase) -> None:
    """Sequences that pad a batch to a fixed size (`train.cuda_graph`) change no sample's predictions."""
    for setting in case.settings():
        plan = setting.plan.map(partial(with_padding, tokens=grid_size(setting.grid)))
        contexts = tuple(
            Tokens(torch.cat([tokens.values, tokens.values[:3]]), context, tokens.grid)
            for tokens, context in zip(setting.contexts, plan.contexts, strict=True)
        )
        predictions = setting.predict(contexts=contexts, plan=plan)
        for actual, expected in zip(predictions, setting.predict(), strict=True):
            rows = actual.values[: expected.at.total]
            require_equal(rows, expected.values, f"on a grid {setting.grid}, with fillers", CLOSE)


@torch.no_grad()
def places_matter(case: PredictorCase) -> None:
    """Two hidden tokens of a sample get predictions of their own."""
    for setting in case.settings():
        for tokens in setting.predict():
            for rows in tokens.values.split(tokens.at.lengths.tolist()):
                alike = len(rows) > 1 and bool((rows - rows[0]).abs().max() == 0)
                require(not alike, f"on a grid {setting.grid} every hidden token is guessed alike")


def context_matters(case: PredictorCase) -> None:
    """The predictions of a sample depend on its context's features."""
    for setting in case.settings():
        leaves = [tokens.values.detach().requires_grad_() for tokens in setting.contexts]
        contexts = tuple(
            Tokens(values, tokens.at, tokens.grid)
            for values, tokens in zip(leaves, setting.contexts, strict=True)
        )
        predictions = setting.predict(contexts=contexts)
        weights = torch.Generator().manual_seed(0)
        parts = [(t.values * torch.randn(t.values.shape, generator=weights)).sum() for t in predictions]
        total = torch.stack(parts).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        require(all(_moves(g) for g in gradients), f"on a grid {setting.grid} a context is not looked at")


@torch.no_grad()
def condition_matters(case: PredictorCase) -> None:
    """Where it needs a condition, the predictions of a sample depend on it."""
    for setting in case.settings():
        if setting.condition is None:
            raise NotAsked("it predicts without a condition")
        other = pick_condition(setting.condition, [2, 0, 1])
        pairs = zip(setting.predict(), setting.predict(condition=other), strict=True)
        alike = all(torch.equal(own.values, changed.values) for own, changed in pairs)
        require(not alike, f"on a grid {setting.grid} the condition is not looked at")


@torch.no_grad()
def repeatable(case: PredictorCase) -> None:
    """In evaluation the same contexts give the same predictions, and nothing is drawn."""
    for setting in case.settings():
        with untouched_randomness():
            first, second = setting.predict(), setting.predict()
        for expected, actual in zip(first, second, strict=True):
            require_equal(actual.values, expected.values, "the second time")


@torch.no_grad()
def empty_plan(case: PredictorCase) -> None:
    """A predictor without parameters passes the context of a plan without masks on."""
    predictor, encoder = case.make((3, 5))
    if list(predictor.parameters()):
        raise NotAsked("it has parameters; the plans with masks are its own")
    context = encoder(torch.randn(BATCH, *encoder.view_shape()))
    (prediction,) = predictor((context,), MaskPlan(), (3, 5))
    require_equal(prediction.values, context.values, "the context passed on")


def _require_count(predictions: Sequence[Tokens], plan: MaskPlan) -> None:
    require(len(predictions) == len(plan.pairs), f"{len(plan.pairs)} pairs, {len(predictions)} predictions")


def _moves(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.abs().max() > 0)


CHECKS = (
    a_prediction_a_pair,
    order_of_pairs,
    batch_mates,
    fillers,
    places_matter,
    context_matters,
    condition_matters,
    repeatable,
    empty_plan,
)
