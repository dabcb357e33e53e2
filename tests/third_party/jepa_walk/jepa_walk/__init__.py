"""A plugin of jepa-core in a distribution of its own: a world model that reads actions, and its data."""

from pathlib import Path

from jepa_core import hookimpl


@hookimpl
def jepa_data() -> dict[str, type]:
    from jepa_walk.source import WalkSource

    return {"walks": WalkSource}


@hookimpl
def jepa_variants() -> dict[str, type]:
    from jepa_walk.variant import WorldModel

    return {"world_model": WorldModel}


@hookimpl
def jepa_recipes() -> Path:
    return Path(__file__).parent / "recipes"
