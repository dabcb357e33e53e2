"""Predictions made visible: `jepa decode` trains a small flow-matching decoder on a run's frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_commands() -> Mapping[str, Callable[..., Any]]:
    from jepa_decoder.command import decode

    return {"decode": decode}
