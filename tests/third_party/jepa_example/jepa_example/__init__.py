"""A plugin of jepa-core in a distribution of its own: a masker, a variant with a changed stage, a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jepa_core import hookimpl


@hookimpl
def jepa_maskers() -> Mapping[str, type]:
    from jepa_example.checkerboard import Checkerboard

    return {"checkerboard": Checkerboard}


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_example.centred import CentredJEPA

    return {"centred": CentredJEPA}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
