"""Recipes: a run written down. TOML files, `extends`, `key=value` overrides, resolved against the plugins."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_core.recipes.files import names as names
    from jepa_core.recipes.load import load_recipe as load_recipe
    from jepa_core.recipes.load import read as read
    from jepa_core.recipes.load import with_overrides as with_overrides
    from jepa_core.settings.recipe import Recipe as Recipe

_HOMES = {
    "Recipe": "settings.recipe",
    "load_recipe": "recipes.load",
    "names": "recipes.files",
    "read": "recipes.load",
    "with_overrides": "recipes.load",
}

__all__ = ["Recipe", "load_recipe", "names", "read", "with_overrides"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa_core.recipes' has no attribute {name!r}")
    return getattr(import_module(f"jepa_core.{_HOMES[name]}"), name)
