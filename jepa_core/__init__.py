"""jepa-core: one engine for joint-embedding predictive architectures, every variant a plugin.

Names load when first used, so `import jepa_core` stays fast; torch comes with the first one that
needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jepa_core.errors import UserError
from jepa_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from jepa_core.assembly import build_model as build_model
    from jepa_core.assembly import sample_masks as sample_masks
    from jepa_core.jepa import JEPA as JEPA
    from jepa_core.jepa import Output as Output
    from jepa_core.loop import train as train
    from jepa_core.optim import training_step as training_step
    from jepa_core.protocols import Step as Step
    from jepa_core.recipes import Recipe as Recipe
    from jepa_core.recipes import load_recipe as load_recipe
    from jepa_core.run import Run as Run
    from jepa_core.settings import ComponentSettings as ComponentSettings
    from jepa_core.settings import Settings as Settings
    from jepa_core.types import Batch as Batch
    from jepa_core.types import Grid as Grid
    from jepa_core.types import IndexSet as IndexSet
    from jepa_core.types import MaskPlan as MaskPlan
    from jepa_core.types import Tokens as Tokens

__version__ = "0.1.0"

_HOMES = {
    "build_model": "assembly",
    "sample_masks": "assembly",
    "JEPA": "jepa",
    "Output": "jepa",
    "train": "loop",
    "training_step": "optim",
    "Step": "protocols",
    "Recipe": "recipes",
    "load_recipe": "recipes",
    "Run": "run",
    "ComponentSettings": "settings",
    "Settings": "settings",
    "Batch": "types",
    "Grid": "types",
    "IndexSet": "types",
    "MaskPlan": "types",
    "Tokens": "types",
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
