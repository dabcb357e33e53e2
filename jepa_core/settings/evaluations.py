"""What a plugin offers as an evaluation: a function, or a class with settings, perhaps on request only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jepa_core.settings.base import EvaluationSettings


@dataclass(frozen=True)
class OnRequest:
    """An evaluation that is made only when it is named, as it costs time or answers a special question.

    `jepa eval RUN --evaluations NAME`, or `evaluations.NAME = true` or a table of its settings in a recipe,
    names it.
    """

    function: Callable[..., Any]
    """What is called with an `EvaluationContext`; or a class with a nested `Config` whose instances are."""

    def __call__(self, context: Any) -> Any:
        """What the function returns; of a class with settings, with its default ones."""
        return with_settings(self, None)(context)


def unwrap(offer: Any) -> Any:
    """The function or class itself, of one that is made on request too."""
    return offer.function if isinstance(offer, OnRequest) else offer


def settings_class(offer: Any) -> type[EvaluationSettings] | None:
    """The `Config` of an evaluation that is a class; None of a function, which has no settings."""
    component = unwrap(offer)
    return component.Config if isinstance(component, type) else None  # type: ignore[attr-defined]


def with_settings(offer: Any, settings: EvaluationSettings | bool | None) -> Callable[..., Any]:
    """What is called with a context: a function as it is, a class built with its settings, by default its
    own."""
    component, config = unwrap(offer), settings_class(offer)
    if config is None:
        return component
    own = settings if isinstance(settings, EvaluationSettings) else config()
    return lambda context: component(own)(context)
