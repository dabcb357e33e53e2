"""From a recipe to a model: builds every component by name and checks that they fit together."""

from __future__ import annotations

from typing import Any

import torch

from jepa_core import plugins
from jepa_core.data.crops import crops
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.maskers.multi_mask import MultiMask
from jepa_core.maskers.step_masks import StepMasks
from jepa_core.nn.attention import choose_implementation
from jepa_core.nn.parts import drop_target, find_part, target_of
from jepa_core.protocols import Encoder
from jepa_core.recipes.duration import total_steps_of
from jepa_core.settings.base import MaskerSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.types.batch import Batch
from jepa_core.types.mask_plan import MaskPlan


def build(kind: str, config: Any, *arguments: Any, **named: Any) -> Any:
    """The component of `kind` that `config.name` names, built from its settings."""
    return plugins.registry().catalogue(kind).find(config.name)(config, *arguments, **named)


def build_model(recipe: Recipe, *, seed: int | None = None, total_steps: int | None = None) -> JEPA:
    """The recipe's model, initialised from its seed (or from `seed`), on the CPU in fp32.

    `total_steps`: optimizer steps of its training; by default what the recipe says, or 1 where it counts in
    epochs of unknown size. Parts that the recipe freezes are frozen; the weights that `[init.PART]` names are
    not loaded, as the random twin is to be random: a run does that when it starts (`runs.initial_weights`).
    The global random state is left as it was. Raises UserError where the masks do not fit the grid.
    """
    if total_steps is None and (recipe.train.steps or (recipe.train.epochs and recipe.train.epoch_images)):
        total_steps = total_steps_of(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed if seed is None else seed)
        encoder = build("encoder", recipe.encoder)
        masker = build("masker", recipe.masker)
        if isinstance(recipe.masker, MaskerSettings) and recipe.masker.sets > 1:
            masker = MultiMask(masker, recipe.masker.sets)
        masker.check(encoder.grid(encoder.view_shape()))
        _check_sizes(recipe, encoder)
        terms = {"prediction": recipe.objective, **recipe.terms}
        model: JEPA = build(
            "variant",
            recipe.variant,
            encoder=encoder,
            predictor=build("predictor", recipe.predictor, encoder, encoder.width),
            masker=masker,
            target_update=build("target_update", recipe.target_update),
            objectives={name: build("objective", config) for name, config in terms.items()},
            total_steps=total_steps or 1,
        )
    _check_views(recipe, model)
    _freeze(recipe, model)
    choose_implementation(model, recipe.kernels.attention, instead_of="auto")
    return model


def _freeze(recipe: Recipe, model: JEPA) -> None:
    """Freezes what the recipe says. Raises UserError for parts that the model lacks, and if all is frozen."""
    frozen = [part for part, settings in recipe.init.items() if settings.frozen]
    for part in recipe.init:
        find_part(model, part)
    for part in frozen:
        find_part(model, part).requires_grad_(False).eval()
        if target_of(part) not in recipe.init:
            drop_target(model, part)
    model.frozen_parts = tuple(frozen)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"there is nothing to train: init freezes {', '.join(frozen)}")


def _check_sizes(recipe: Recipe, encoder: Encoder) -> None:
    """Raises UserError for a group of crops of a size that the encoder cannot take."""
    for name, view in recipe.transform.views.items():
        try:
            encoder.grid(view.shape(encoder.view_shape()))
        except UserError as error:
            raise UserError(f"transform.views.{name}: {error}, or transform.views.{name}.size") from None


def _check_views(recipe: Recipe, model: JEPA) -> None:
    """Raises UserError for groups of crops where the variant takes one view."""
    if recipe.transform.views and not model.config.several_views:
        variants = plugins.registry().catalogue("variant").classes.items()
        fit = sorted(name for name, variant in variants if variant.Config.several_views)
        raise UserError(
            f"variant {recipe.variant.name!r} takes one view of a sample; transform.views has "
            f"{', '.join(recipe.transform.views)}; for several views there is: {', '.join(fit) or 'none'}"
        )


def random_batch(
    recipe: Recipe, model: JEPA, batch_size: int, generator: torch.Generator | None = None
) -> Batch:
    """A batch of random pixels in the recipe's views, to measure or try a step without data."""
    groups = crops(recipe.transform, model.encoder.view_shape())
    return Batch(
        {
            name: torch.randn(group.batch_shape(batch_size), generator=generator)
            for name, group in groups.items()
        }
    )


def sample_masks(model: JEPA, batch_size: int, seed: int = 0, step: int = 0, rank: int = 0) -> MaskPlan:
    """The masks that a run of this seed draws at this step (0-based) for a batch of this size."""
    return StepMasks(model.masker, model.grid(), model.total_steps, seed)(step, rank, batch_size)
