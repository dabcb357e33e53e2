"""Joint-embedding prediction of captions from images: without negatives (LeVLJEPA), with them (VL-JEPA), and
I-JEPA whose predictor reads the caption (TC-JEPA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core import hookimpl


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_imagetext.variant import ImageText

    return {"imagetext": ImageText}


@hookimpl
def jepa_data() -> Mapping[str, type]:
    from jepa_imagetext.pictures import Drawings, EmojiPictures

    return {"drawings": Drawings, "emoji": EmojiPictures}


@hookimpl
def jepa_evaluations() -> Mapping[str, Callable[..., Any]]:
    from jepa_imagetext.words import word_accuracy

    return {"words": word_accuracy}


@hookimpl
def jepa_sections() -> Mapping[str, Callable[..., Any]]:
    from jepa_imagetext.nearest_captions import nearest_captions

    return {"nearest captions": nearest_captions}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
