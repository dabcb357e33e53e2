"""Stacked JEPAs: levels that predict further and further ahead, each on what the one below sees or predicts;
a prompt, of words or sound, enters at the top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_data() -> Mapping[str, type]:
    from jepa_stacked.films import PromptedFilmsSource

    return {"prompted_films": PromptedFilmsSource}


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_stacked.variant import Stacked

    return {"stacked": Stacked}


@hookimpl
def jepa_encoders() -> Mapping[str, type]:
    from jepa_stacked.networks import FrameGrid

    return {"frame_grid": FrameGrid}


@hookimpl
def jepa_evaluations() -> Mapping[str, Callable[..., Any]]:
    from jepa_core.evaluate import OnRequest
    from jepa_stacked.evaluation import Futures
    from jepa_stacked.plans import DistantGoals

    return {"futures": Futures, "distant_goals": OnRequest(DistantGoals)}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
