"""`Subject`, the component that is checked, and the checks that hold for every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jepa_core import plugins
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.describe import describe, summary
from jepa_core.settings.parse import parse
from jepa_core.testing.outcomes import require


@dataclass(frozen=True)
class Subject:
    """A component that is checked, and the settings it is built with."""

    kind: str
    component: Any
    name: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, component: type | str, values: Mapping[str, Any]) -> Subject:
        """From a class or a registered name. Raises UserError for an unknown name."""
        if isinstance(component, str):
            return cls(kind, plugins.registry().catalogue(kind).find(component), component, values)
        return cls(kind, component, component.__name__, values)

    @cached_property
    def config(self) -> ComponentSettings:
        """The settings object. Raises UserError where the values do not fit."""
        config: ComponentSettings = parse(
            self.component.Config, {"name": self.name, **self.values}, self.kind
        )
        return config


def documented(subject: Subject) -> None:
    """The class and each of its settings say what they are."""
    require(bool(summary(subject.component)), f"the class {subject.component.__name__} has no docstring")
    undocumented = [setting.name for setting in describe(subject.component.Config) if not setting.means]
    require(not undocumented, f"without a docstring under the field: {', '.join(undocumented)}")


def strict(subject: Subject) -> None:
    """Settings are frozen, and an unknown one is an error."""
    options = subject.component.Config.model_config
    require(bool(options.get("frozen")), "Config can be changed after construction; leave frozen=True")
    require(options.get("extra") == "forbid", "Config takes unknown settings; leave extra='forbid'")


CHECKS = (documented, strict)
