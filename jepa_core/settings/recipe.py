"""The record of a recipe: every section as the settings of the component it names.

Sections: variant, data, encoder, predictor, masker, target_update, objective, optimizer, each one component;
terms.* (further objectives), probes.*, transforms.* (of named values), encoders.*, target_updates.* (of those
encoders), maskers.* (of further views) and init.* (weights that parts start with), any number of each;
transform, train, kernels: the engine's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tomlkit

from jepa_core.settings.base import (
    ComponentSettings,
    EvaluationSettings,
    ObjectiveSettings,
    Settings,
    SourceSettings,
)
from jepa_core.settings.initial import InitSettings, to_init_table
from jepa_core.settings.optimizer import OptimizerSettings
from jepa_core.settings.sections import KernelSettings, TrainSettings, TransformSettings

Table = dict[str, Any]

COMPONENT_SECTIONS = (
    "variant",
    "data",
    "encoder",
    "predictor",
    "masker",
    "target_update",
    "objective",
    "optimizer",
)

COMPONENT_TABLES = {
    "terms": "objective",
    "probes": "probe",
    "transforms": "transform",
    "encoders": "encoder",
    "target_updates": "target_update",
    "maskers": "masker",
}

ENGINE_SECTIONS: dict[str, type[Settings]] = {
    "transform": TransformSettings,
    "train": TrainSettings,
    "kernels": KernelSettings,
}

DEFAULTS: Table = {
    "variant": {"name": "jepa"},
    "target_update": {"name": "ema"},
    "objective": {"name": "smooth_l1"},
    "optimizer": {"name": "adamw"},
    "probes": {"knn": {"name": "knn"}, "linear": {"name": "linear"}},
}
"""What a recipe may leave out: each section, and in a section the name."""

ALWAYS_WRITTEN = ("terms", "probes")
"""Of the tables of components, those that are written where they are empty."""

REMOVED = False
"""What a term or probe is that a recipe takes out, `probes.linear = false`."""


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every section is the settings object of the component it names."""

    name: str
    seed: int
    variant: ComponentSettings
    data: SourceSettings
    encoder: ComponentSettings
    predictor: ComponentSettings
    masker: ComponentSettings
    target_update: ComponentSettings
    objective: ObjectiveSettings
    transform: TransformSettings
    optimizer: OptimizerSettings
    train: TrainSettings
    kernels: KernelSettings = field(default_factory=KernelSettings)
    terms: Mapping[str, ObjectiveSettings] = field(default_factory=dict)
    probes: Mapping[str, ComponentSettings] = field(default_factory=dict)
    transforms: Mapping[str, ComponentSettings] = field(default_factory=dict)
    init: Mapping[str, InitSettings] = field(default_factory=dict)
    """By the part of the model that starts with these weights."""
    encoders: Mapping[str, ComponentSettings] = field(default_factory=dict)
    target_updates: Mapping[str, ComponentSettings] = field(default_factory=dict)
    maskers: Mapping[str, ComponentSettings] = field(default_factory=dict)
    evaluations: Mapping[str, bool | EvaluationSettings] = field(default_factory=dict)
    """False for an evaluation that is left out, true or its settings for one that is asked for."""

    def to_table(self) -> Table:
        """Plain values, every default written out; `recipes.resolve.resolve` takes them back."""
        table: Table = {"name": self.name, "seed": self.seed}
        for section in (*COMPONENT_SECTIONS, *ENGINE_SECTIONS):
            table[section] = _to_table(getattr(self, section))
        for section in COMPONENT_TABLES:
            entries = {key: _to_table(entry) for key, entry in getattr(self, section).items()}
            removed = dict.fromkeys(self.removed_entries(section), REMOVED)
            if entries or removed or section in ALWAYS_WRITTEN:
                table[section] = {**removed, **entries}
        if self.evaluations:
            table["evaluations"] = {
                name: choice if isinstance(choice, bool) else _to_table(choice)
                for name, choice in self.evaluations.items()
            }
        return table | ({"init": to_init_table(self.init)} if self.init else {})

    def removed_entries(self, section: str) -> list[str]:
        """The entries of a section that are there by default and that this recipe takes out."""
        return [name for name in DEFAULTS.get(section, {}) if name not in getattr(self, section)]

    def to_toml(self) -> str:
        """The resolved recipe as a TOML document."""
        return tomlkit.dumps(self.to_table())


def _to_table(settings: Settings) -> Table:
    """TOML has no null: what is None is left out, and its default is None."""
    return settings.model_dump(mode="json", exclude_none=True)


def flatten_table(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        result.update(flatten_table(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return result
