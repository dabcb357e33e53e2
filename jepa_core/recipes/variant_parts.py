"""The check that a recipe's named encoders and maskers are those that its variant uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError
from jepa_core.runtime.constructors import takes_argument
from jepa_core.settings.base import VariantSettings
from jepa_core.settings.recipe import Recipe


def check_variant_parts(recipe: Recipe) -> None:
    """Raises UserError for named encoders and plans of views that the variant does not use, or lacks."""
    variants = plugins.registry().catalogue("variant").classes
    variant = plugins.registry().catalogue("variant").find(recipe.variant.name)
    wanted = _settings(variant).named_encoders
    named = recipe.variant.name
    for name in recipe.encoders:
        if (wanted is not None and name not in wanted) or not takes_argument(variant, "encoders"):
            fit = [known for known, other in variants.items() if _uses(other, name)]
            raise UserError(
                f"variant {named!r} does not use [encoders.{name}]; variants that do: {_list(fit)}"
            )
    for name in wanted or ():
        if name not in recipe.encoders:
            raise UserError(
                f"variant {named!r} needs [encoders.{name}]; the recipe has: {_list(recipe.encoders)}"
            )
    if recipe.maskers and not _settings(variant).plans_of_views:
        fit = [known for known, other in variants.items() if _settings(other).plans_of_views]
        raise UserError(
            f"variant {named!r} masks the first view alone, and the recipe has "
            f"[maskers.{next(iter(recipe.maskers))}]; variants that mask others: {_list(fit)}"
        )


def _uses(variant: type, encoder: str) -> bool:
    names = _settings(variant).named_encoders
    return names is None or encoder in names


def _settings(variant: Any) -> type[VariantSettings]:
    """Its class of settings; the base's, which declares nothing, where it derives from another."""
    settings = variant.Config
    return settings if issubclass(settings, VariantSettings) else VariantSettings


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
