"""I-JEPA (Assran et al. 2023, arXiv 2301.08243) as a plugin: encoders, predictor, maskers, recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_encoders() -> Mapping[str, type]:
    from jepa_ijepa.encoder import VisionTransformer

    sizes = ("tiny", "small", "base", "large", "huge", "giant")
    timm = ("vit_*", "deit*", "flexivit_*", "beit3_*", "aimv2_*", "eva_*", "test_vit*")
    return dict.fromkeys([*(f"official_{size}" for size in sizes), *timm], VisionTransformer)


@hookimpl
def jepa_predictors() -> Mapping[str, type]:
    from jepa_ijepa.predictor import VitPredictor

    return {"vit_predictor": VitPredictor}


@hookimpl
def jepa_maskers() -> Mapping[str, type]:
    from jepa_ijepa import maskers as m

    return {
        "multiblock": m.Multiblock,
        "block": m.Block,
        "random": m.Random,
        "rasterised": m.Rasterised,
        "union": m.Union,
    }


@hookimpl
def jepa_formats() -> Mapping[str, type]:
    from jepa_ijepa.huggingface import HuggingFace
    from jepa_ijepa.official_format import Official

    return {"official": Official, "huggingface": HuggingFace}


@hookimpl
def jepa_peers() -> Mapping[str, Callable[..., Any]]:
    from jepa_ijepa.official_way import official_step

    return {"official": official_step}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
