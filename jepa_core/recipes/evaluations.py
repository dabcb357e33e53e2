"""The section `[evaluations]` of a recipe: which evaluations are left out or asked for, and their
settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError, printable, unknown
from jepa_core.settings.base import EvaluationSettings
from jepa_core.settings.evaluations import settings_class
from jepa_core.settings.parse import parse
from jepa_core.settings.validation_errors import show

log = logging.getLogger("jepa.recipes")


def read_evaluations(table: Mapping[str, Any]) -> dict[str, bool | EvaluationSettings]:
    """`evaluations.NAME = false` leaves one out, `true` asks for one that is made on request only, and a
    table asks for it with these settings.

    One that no plugin offers is warned of. It is no error, as a run has to open after the plugin is gone.
    Raises UserError for anything else, and for settings that the evaluation does not have.
    """
    offered = plugins.registry().functions("evaluation")[0] if table else {}
    wanted: dict[str, bool | EvaluationSettings] = {}
    for name, choice in table.items():
        if not isinstance(choice, bool | Mapping):
            raise UserError(
                f"setting 'evaluations.{printable(name)}' is {show(choice)}; expected false, which leaves "
                "the evaluation out, or true, or a table of its settings"
            )
        if name in offered:
            wanted[name] = choice if isinstance(choice, bool) else _settings(name, offered[name], choice)
            continue
        wanted[name] = choice is not False
        verb = "asks for" if wanted[name] else "leaves out"
        log.warning("the recipe %s an %s", verb, unknown("evaluation", name, offered))
    return wanted


def _settings(name: str, offer: Any, table: Mapping[str, Any]) -> EvaluationSettings:
    """Raises UserError for an evaluation without settings, and for wrong ones."""
    config = settings_class(offer)
    if config is None:
        raise UserError(
            f"setting 'evaluations.{name}' is {show(table)}; expected true or false: the evaluation has no "
            "settings"
        )
    return parse(config, table, f"evaluations.{name}")
