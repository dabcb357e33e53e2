"""Fine-tuning: a classifier that starts from a run's encoder, and `jepa finetune RUN`, which trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_finetune.variant import Classifier

    return {"classifier": Classifier}


@hookimpl
def jepa_evaluations() -> Mapping[str, Callable[..., Any]]:
    from jepa_finetune.accuracy import accuracy

    return {"accuracy": accuracy}


@hookimpl
def jepa_sections() -> Mapping[str, Callable[..., Any]]:
    from jepa_finetune.confusion import confusion

    return {"confusion": confusion}


@hookimpl
def jepa_commands() -> Mapping[str, Any]:
    from jepa_finetune.command import finetune

    return {"finetune": finetune}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
