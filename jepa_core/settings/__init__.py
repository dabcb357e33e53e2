"""Settings: what components' settings derive from, and the engine's own sections of a recipe."""

from jepa_core.settings.base import ComponentSettings as ComponentSettings
from jepa_core.settings.base import EvaluationSettings as EvaluationSettings
from jepa_core.settings.base import MaskerSettings as MaskerSettings
from jepa_core.settings.base import ObjectiveSettings as ObjectiveSettings
from jepa_core.settings.base import Settings as Settings
from jepa_core.settings.base import SourceSettings as SourceSettings
from jepa_core.settings.base import ValueSettings as ValueSettings
from jepa_core.settings.base import VariantSettings as VariantSettings
from jepa_core.settings.optimizer import GroupSettings as GroupSettings
from jepa_core.settings.optimizer import OptimizerSettings as OptimizerSettings
from jepa_core.settings.parse import parse as parse
from jepa_core.settings.sections import KernelSettings as KernelSettings
from jepa_core.settings.sections import TrainSettings as TrainSettings
from jepa_core.settings.sections import TransformSettings as TransformSettings
from jepa_core.settings.sections import ViewSettings as ViewSettings

__all__ = [
    "ComponentSettings",
    "EvaluationSettings",
    "GroupSettings",
    "KernelSettings",
    "MaskerSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "Settings",
    "SourceSettings",
    "TrainSettings",
    "TransformSettings",
    "ValueSettings",
    "VariantSettings",
    "ViewSettings",
    "parse",
]
