"""jepa-core: one engine for joint-embedding predictive architectures, every variant a plugin.

Names load when first used, so `import jepa_core` stays fast; torch comes with the first one that
needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jepa_core._version import __version__
from jepa_core.errors import UserError
from jepa_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from jepa_core.assembly import build_model as build_model
    from jepa_core.assembly import sample_masks as sample_masks
    from jepa_core.jepa import JEPA as JEPA
    from jepa_core.jepa import Output as Output
    from jepa_core.recipes.load import load_recipe as load_recipe
    from jepa_core.runs.run import Run as Run
    from jepa_core.settings.base import ComponentSettings as ComponentSettings
    from jepa_core.settings.base import Settings as Settings
    from jepa_core.settings.recipe import Recipe as Recipe
    from jepa_core.trainer import train as train
    from jepa_core.training.build import training_step as training_step
    from jepa_core.types.batch import Batch as Batch
    from jepa_core.types.index_set import Grid as Grid
    from jepa_core.types.index_set import IndexSet as IndexSet
    from jepa_core.types.mask_plan import MaskPlan as MaskPlan
    from jepa_core.types.packed import Packed as Packed
    from jepa_core.types.sample import Field as Field
    from jepa_core.types.sample import Sample as Sample
    from jepa_core.types.step import Group as Group
    from jepa_core.types.step import Step as Step
    from jepa_core.types.tokens import Tokens as Tokens

_HOMES = {
    "build_model": "assembly",
    "sample_masks": "assembly",
    "JEPA": "jepa",
    "Output": "jepa",
    "train": "trainer",
    "training_step": "training.build",
    "Step": "types.step",
    "Recipe": "settings.recipe",
    "load_recipe": "recipes.load",
    "Run": "runs.run",
    "ComponentSettings": "settings.base",
    "Settings": "settings.base",
    "Batch": "types.batch",
    "Grid": "types.index_set",
    "IndexSet": "types.index_set",
    "MaskPlan": "types.mask_plan",
    "Tokens": "types.tokens",
    "Packed": "types.packed",
    "Field": "types.sample",
    "Sample": "types.sample",
    "Group": "types.step",
}

__all__ = ["UserError", "__version__", "hookimpl", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa_core' has no attribute {name!r}")
    value = getattr(import_module(f"jepa_core.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
