"""LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544) as a plugin: several views, no masks, no teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jepa_core import hookimpl


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_lejepa.variant import LeJEPA

    return {"lejepa": LeJEPA}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
