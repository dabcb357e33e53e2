"""Data: sources of images, transforms, and loaders whose every batch depends on its step number alone.

Names load when first used: settings are needed to read a recipe, torchvision only to read an image.
`SOURCES` are the built-in sources by name; plugins add theirs through the hook `jepa_data`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_core.data.cifar10 import Cifar10Source as Cifar10Source
    from jepa_core.data.eval_loader import EvalLoader as EvalLoader
    from jepa_core.data.eval_loader import eval_loader as eval_loader
    from jepa_core.data.folder import FolderSource as FolderSource
    from jepa_core.data.huggingface import HuggingFaceSource as HuggingFaceSource
    from jepa_core.data.images import CorruptSample as CorruptSample
    from jepa_core.data.images import read_image as read_image
    from jepa_core.data.images import to_rgb as to_rgb
    from jepa_core.data.loader import StepLoader as StepLoader
    from jepa_core.data.loader import make_loader as make_loader
    from jepa_core.data.npz import NpzSource as NpzSource
    from jepa_core.data.randomness import step_generator as step_generator
    from jepa_core.data.samples import ArraySamples as ArraySamples
    from jepa_core.data.samples import BaseSamples as BaseSamples
    from jepa_core.data.settings import HeldOutSettings as HeldOutSettings
    from jepa_core.data.settings import SourceSettings as SourceSettings
    from jepa_core.data.settings import TransformSettings as TransformSettings
    from jepa_core.data.shards import WebDatasetSource as WebDatasetSource
    from jepa_core.data.splits import SplitSource as SplitSource
    from jepa_core.data.steps import Loaded as Loaded
    from jepa_core.data.torchvision_sets import TorchvisionSource as TorchvisionSource
    from jepa_core.data.transforms import eval_transform as eval_transform
    from jepa_core.data.transforms import train_transform as train_transform

    SOURCES: dict[str, type]

_HOMES = {
    "ArraySamples": "samples",
    "BaseSamples": "samples",
    "Cifar10Source": "cifar10",
    "CorruptSample": "images",
    "EvalLoader": "eval_loader",
    "FolderSource": "folder",
    "HeldOutSettings": "settings",
    "HuggingFaceSource": "huggingface",
    "Loaded": "steps",
    "NpzSource": "npz",
    "SourceSettings": "settings",
    "SplitSource": "splits",
    "StepLoader": "loader",
    "TorchvisionSource": "torchvision_sets",
    "TransformSettings": "settings",
    "WebDatasetSource": "shards",
    "eval_loader": "eval_loader",
    "eval_transform": "transforms",
    "make_loader": "loader",
    "read_image": "images",
    "step_generator": "randomness",
    "to_rgb": "images",
    "train_transform": "transforms",
}
_SOURCES = {
    "cifar10": "Cifar10Source",
    "folder": "FolderSource",
    "huggingface": "HuggingFaceSource",
    "npz": "NpzSource",
    "torchvision": "TorchvisionSource",
    "webdataset": "WebDatasetSource",
}

__all__ = ["SOURCES", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "SOURCES":
        value: Any = {source: __getattr__(home) for source, home in _SOURCES.items()}
    elif name in _HOMES:
        value = getattr(import_module(f"jepa_core.data.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'jepa_core.data' has no attribute {name!r}")
    globals()[name] = value
    return value
