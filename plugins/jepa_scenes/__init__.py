"""Scenes of simple solids with exact truth, and the labels of VTAB's CLEVR and KITTI tasks, as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jepa_core import hookimpl

if TYPE_CHECKING:
    from jepa_scenes.sheet import preview as preview


@hookimpl
def jepa_data() -> Mapping[str, type]:
    from jepa_scenes.clevr import ClevrSource
    from jepa_scenes.kitti import KittiSource
    from jepa_scenes.source import ScenesSource

    return {"scenes": ScenesSource, "clevr": ClevrSource, "kitti": KittiSource}


@hookimpl
def jepa_commands() -> Mapping[str, Any]:
    from jepa_scenes.commands import app

    return {"scenes": app}


def __getattr__(name: str) -> Any:
    if name != "preview":
        raise AttributeError(f"module 'jepa_scenes' has no attribute {name!r}")
    from jepa_scenes.sheet import preview

    return preview
