"""From a recipe to a model: builds every component by name and checks that they fit together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from jepa_core import plugins
from jepa_core.data.crops import crops
from jepa_core.data.examples import LABEL, example_values
from jepa_core.data.field_transforms.pipeline import FieldTransforms, field_transforms
from jepa_core.errors import UserError, unknown
from jepa_core.jepa import JEPA
from jepa_core.maskers.multi_mask import MultiMask, side_names
from jepa_core.maskers.step_masks import StepMasks, ViewMasks
from jepa_core.nn.attention import choose_implementation
from jepa_core.nn.parts import drop_target, find_part, target_of
from jepa_core.protocols import DescribesFields, Encoder, Masker
from jepa_core.recipes.duration import total_steps_of
from jepa_core.recipes.variant_parts import check_variant_parts
from jepa_core.runtime.constructors import requires_argument, takes_argument
from jepa_core.settings.base import ComponentSettings, MaskerSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.types.batch import Batch
from jepa_core.types.fields import first_view, names_of
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.random_value import random_value
from jepa_core.types.sample import Field, Fields, Kind

KINDS_OF_VIEWS: Mapping[int, Kind] = {1: "vector", 2: "sequence", 3: "image", 4: "clip"}
"""What the views of an encoder are whose source does not say it, by their rank without B."""


def build(kind: str, config: Any, *arguments: Any, **named: Any) -> Any:
    """The component of `kind` that `config.name` names, built from its settings.

    Raises UserError for an unknown name, and, in a line, for whatever its constructor raises.
    """
    return plugins.registry().catalogue(kind).construct(config.name, config, *arguments, **named)


def build_with(kind: str, config: Any, *arguments: Any, offered: Mapping[str, Any], **named: Any) -> Any:
    """As `build`, with those of the `offered` arguments that the component's constructor takes."""
    component = plugins.registry().catalogue(kind).find(config.name)
    more = {name: value for name, value in offered.items() if takes_argument(component, name)}
    return build(kind, config, *arguments, **named, **more)


def build_model(
    recipe: Recipe, fields: Fields | None = None, *, seed: int | None = None, total_steps: int | None = None
) -> JEPA:
    """The recipe's model, initialised from its seed (or from `seed`), on the CPU in fp32.

    `fields`: what the values of a sample are, after transforms; by default what the recipe's source says.
    `total_steps`: optimizer steps of its training; by default what the recipe says. Parts that the recipe
    freezes are frozen; weights of `[init.PART]` are not loaded, as the twin is to be random; a run does so
    when it starts (`runs.initial_weights`). The global random state is left as it was. Raises
    UserError where parts do not fit: masks and grid, encoders, views and variant.
    """
    if total_steps is None and (recipe.train.steps or (recipe.train.epochs and recipe.train.epoch_images)):
        total_steps = total_steps_of(recipe)
    check_variant_parts(recipe)
    transforms = None if fields else _described(recipe)
    fields = fields or (transforms.outputs if transforms else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed if seed is None else seed)
        encoder = build_encoder("", recipe.encoder, fields)
        encoders = {name: build_encoder(name, own, fields) for name, own in recipe.encoders.items()}
        if transforms is not None:
            fields = _with_shapes(transforms, encoder, encoders)
        fields = fields or _plain_fields(recipe, encoder)
        offered: dict[str, Any] = {"fields": fields}
        masker = _build_masker("masker", recipe.masker, fields)
        masker.check(encoder.grid(encoder.view_shape()))
        _check_sizes(recipe, encoder)
        terms = {"prediction": recipe.objective, **recipe.terms}
        parts = {
            "encoder": encoder,
            "predictor": build_with("predictor", recipe.predictor, encoder, encoder.width, offered=offered),
            "masker": masker,
            "target_update": build_with("target_update", recipe.target_update, offered=offered),
            "objectives": {
                name: build_with("objective", config, offered=offered) for name, config in terms.items()
            },
            "total_steps": total_steps or 1,
        }
        updates = {
            name: build_with("target_update", own, offered=offered)
            for name, own in recipe.target_updates.items()
        }
        maskers = {
            name: _view_masks(name, own, fields, encoder, encoders) for name, own in recipe.maskers.items()
        }
        offered |= {"encoders": encoders, "target_updates": updates, "maskers": maskers}
        model: JEPA = build_with("variant", recipe.variant, offered=offered, **parts)
    model.fields = fields
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


def described_fields(recipe: Recipe) -> Fields | None:
    """What the recipe's source says of its values, after transforms; None for one that does not say.

    The sizes of images and clips are not known before their encoders. Raises UserError as the source and
    `FieldTransforms` do. Of sources that do not say, nothing is built.
    """
    transforms = _described(recipe)
    return None if transforms is None else transforms.outputs


def _described(recipe: Recipe) -> FieldTransforms | None:
    if not issubclass(plugins.registry().catalogue("data").find(recipe.data.name), DescribesFields):
        return None
    source: Any = build("data", recipe.data)
    return None if source.fields() is None else field_transforms(source, recipe)


def _with_shapes(
    transforms: FieldTransforms, encoder: Encoder, encoders: Mapping[str, Encoder]
) -> dict[str, Field]:
    """What comes out of the transforms when they make the views that these encoders ask for."""
    shapes = {"": encoder.view_shape(), **{name: own.view_shape() for name, own in encoders.items()}}
    transforms.set_view_shapes(shapes)
    fields = dict(transforms.outputs)
    if not transforms.groups:
        return fields
    first = fields.pop(f"views.{first_view(fields)}")
    groups = {name: group.batch_shape(1)[1:] for name, group in transforms.groups.items()}
    return {f"views.{name}": first.changed(shape=shape) for name, shape in groups.items()} | fields


def _plain_fields(recipe: Recipe, encoder: Encoder) -> dict[str, Field]:
    """The views that loaders make for this encoder of a source that describes nothing."""
    kind = KINDS_OF_VIEWS.get(len(encoder.view_shape()))
    if kind is None:
        return {}
    groups = crops(recipe.transform, encoder.view_shape())
    return {f"views.{name}": Field(kind, group.batch_shape(1)[1:]) for name, group in groups.items()}


def build_encoder(name: str, config: ComponentSettings, fields: Fields) -> Any:
    """The encoder of a view, "" for the first one. Raises UserError for one that must know a field that
    nobody described."""
    view = name or first_view(fields)
    field = fields.get(f"views.{view}")
    offered: dict[str, Any] = {"fields": fields} | ({} if field is None else {"field": field})
    component = plugins.registry().catalogue("encoder").find(config.name)
    if field is None and requires_argument(component, "field"):
        section = f"encoders.{name}" if name else "encoder"
        views = ", ".join(names_of(fields, "views")) or "none"
        raise UserError(
            f"the encoder {config.name!r} of [{section}] is made for its view, and the source describes no "
            f"{f'views.{view}' if view else 'view'}; its views: {views}"
        )
    return build_with("encoder", config, offered=offered)


def _build_masker(section: str, config: ComponentSettings, fields: Fields) -> Any:
    """The masker of a section. Raises UserError for one that reads a side value that the source lacks."""
    masker: Masker = build_with("masker", config, offered={"fields": fields})
    sides = names_of(fields, "side")
    for name in side_names(masker):
        if name not in sides:
            raise UserError(
                f"the masker {config.name!r} of [{section}] reads side.{name}; the source's side values: "
                f"{', '.join(sides) or 'none'}"
            )
    if isinstance(config, MaskerSettings) and config.sets > 1:
        return MultiMask(masker, config.sets)
    return masker


def _view_masks(
    view: str,
    config: ComponentSettings,
    fields: Fields,
    encoder: Encoder,
    encoders: Mapping[str, Encoder],
) -> ViewMasks:
    """The masker of a further view, on the grid that its own encoder, or else the main one, gives of it.

    Raises UserError for the first view, a view that is not there, and masks that do not fit the grid.
    """
    if view == first_view(fields):
        raise UserError(f"[maskers.{view}]: {view!r} is the first view, whose masker is [masker]")
    field, count = fields.get(f"views.{view}"), 1
    if view in encoders:
        grid = encoders[view].grid(encoders[view].view_shape())
    elif field is None:
        raise unknown("view with a masker", view, [*names_of(fields, "views")[1:], *encoders])
    else:
        rank = len(encoder.view_shape())
        sides = tuple(side for side in field.shape[-rank:] if side is not None)
        if len(sides) < rank:
            raise UserError(
                f"[maskers.{view}]: masks need views of one shape that the encoder takes; this one is a "
                f"{field.kind} {field.shape}"
            )
        grid, count = encoder.grid(sides), math.prod(side or 1 for side in field.shape[:-rank])
    masker = _build_masker(f"maskers.{view}", config, fields)
    masker.check(grid)
    return ViewMasks(masker, grid, count)


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
    """A batch of random values in the recipe's views, to measure or try a step without data.

    With what else the model's fields describe, and labels; values that the source offers as examples are its
    own. Raises UserError for a view that no random tensor can stand for, and as `example_values`.
    """
    fields, first = model.fields, first_view(model.fields)
    given = example_values(recipe.data, fields, batch_size, generator)
    views: dict[str, Any] = {}

    def value(place: str, field: Field) -> Any:
        return given[place] if place in given else random_value(field, batch_size, generator)

    if _is_cropped(recipe, fields.get(f"views.{first}")):
        groups = crops(recipe.transform, model.encoder.view_shape())
        names = list(groups) if recipe.transform.views or first is None else [first]
        for name, group in zip(names, groups.values(), strict=True):
            views[name] = value(f"views.{name}", Field("image", group.batch_shape(batch_size)[1:]))
    for name in (*names_of(fields, "views"), *model.encoders):
        field = fields.get(f"views.{name}") or Field("vector", tuple(model.encoders[name].view_shape()))
        if name not in views and not (recipe.transform.views and name == first):
            views[name] = value(f"views.{name}", field)
    condition, side, targets = (
        {name: value(f"{part}.{name}", fields[f"{part}.{name}"]) for name in names_of(fields, part)}
        for part in ("condition", "side", "targets")
    )
    labels = given.get(LABEL, torch.arange(batch_size) % 2)
    return Batch(views, condition or None, side, labels, targets=targets)


def _is_cropped(recipe: Recipe, field: Field | None) -> bool:
    """Whether loaders make the first view in the encoder's shape, not in one that its field says."""
    own = field is None or field.kind in ("image", "clip")
    return own and (field is None or bool(recipe.transform.views) or not field.shape or None in field.shape)


def sample_masks(
    model: JEPA,
    batch_size: int,
    seed: int = 0,
    step: int = 0,
    rank: int = 0,
    side: Mapping[str, Any] | None = None,
) -> MaskPlan:
    """The masks that a run of this seed draws at this step (0-based) for a batch of this size.

    `side` is the batch's, for maskers that read it. Raises UserError where it lacks what they read.
    """
    return step_masks(model, seed)(step, rank, batch_size, side)


def step_masks(model: JEPA, seed: int = 0, total_steps: int | None = None) -> StepMasks:
    """What draws the masks of each step of a run of this seed, by default of the model's `total_steps`."""
    total = model.total_steps if total_steps is None else total_steps
    return StepMasks(model.masker, model.grid(), total, seed, model.maskers)
