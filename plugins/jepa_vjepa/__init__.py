"""V-JEPA (Bardes et al. 2024, arXiv 2404.08471) as a plugin: clips, tubelets, masks in space and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_encoders() -> Mapping[str, type]:
    from jepa_vjepa.encoder import SIZES, TubeletEncoder

    return dict.fromkeys(SIZES, TubeletEncoder)


@hookimpl
def jepa_predictors() -> Mapping[str, type]:
    from jepa_vjepa.predictor import PairPredictor

    return {"pair_predictor": PairPredictor}


@hookimpl
def jepa_maskers() -> Mapping[str, type]:
    from jepa_vjepa import maskers as m

    return {"multiblock3d": m.Multiblock3d, "tube": m.Tube, "causal": m.Causal}


@hookimpl
def jepa_data() -> Mapping[str, type]:
    from jepa_vjepa.clips import ClipsSource
    from jepa_vjepa.moving_discs import MovingDiscs
    from jepa_vjepa.sample_clips import SampleClips

    return {"clips": ClipsSource, "moving_discs": MovingDiscs, "sample_clips": SampleClips}


@hookimpl
def jepa_sections() -> Mapping[str, Callable[..., Any]]:
    from jepa_vjepa.foresight import foresight

    return {"foresight": foresight}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
