"""World models (LeWM, PLDM, DINO-WM, V-JEPA 2-AC): prediction conditioned on actions, and planning with
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_world.variant import WorldModel

    return {"world": WorldModel}


@hookimpl
def jepa_encoders() -> Mapping[str, type]:
    from jepa_world.networks import FrameCnn

    return {"frame_cnn": FrameCnn}


@hookimpl
def jepa_predictors() -> Mapping[str, type]:
    from jepa_world.networks import Transition

    return {"transition": Transition}


@hookimpl
def jepa_data() -> Mapping[str, type]:
    from jepa_world.episodes import EpisodesSource, PushTSource
    from jepa_world.two_rooms import TwoRoomsSource

    return {"two_rooms": TwoRoomsSource, "episodes": EpisodesSource, "pusht": PushTSource}


@hookimpl
def jepa_evaluations() -> Mapping[str, Callable[..., Any]]:
    from jepa_world.evaluation import rollouts

    return {"rollouts": rollouts}


@hookimpl
def jepa_sections() -> Mapping[str, Callable[..., Any]]:
    from jepa_world.evaluation import imagined

    return {"imagined": imagined}


@hookimpl
def jepa_commands() -> Mapping[str, Callable[..., Any]]:
    from jepa_world.command import plan

    return {"plan": plan}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
