"""Data: sources of images, transforms, and loaders whose every batch depends on its step number alone.

Names load when first used: settings are needed to read a recipe, torchvision only to read an image.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_core.data.eval_batches import EvalLoader as EvalLoader
    from jepa_core.data.eval_batches import eval_loader as eval_loader
    from jepa_core.data.field_transforms.base import InvalidValue as InvalidValue
    from jepa_core.data.field_transforms.base import ValueTransform as ValueTransform
    from jepa_core.data.images import CorruptSample as CorruptSample
    from jepa_core.data.images import read_image as read_image
    from jepa_core.data.images import to_rgb as to_rgb
    from jepa_core.data.loader import StepLoader as StepLoader
    from jepa_core.data.loader import make_loader as make_loader
    from jepa_core.data.samples import ArraySamples as ArraySamples
    from jepa_core.data.samples import BaseSamples as BaseSamples
    from jepa_core.data.sources.cifar10 import Cifar10Source as Cifar10Source
    from jepa_core.data.sources.folder import FolderSource as FolderSource
    from jepa_core.data.sources.huggingface import HuggingFaceSource as HuggingFaceSource
    from jepa_core.data.sources.npz import NpzSource as NpzSource
    from jepa_core.data.sources.torchvision import TorchvisionSource as TorchvisionSource
    from jepa_core.data.sources.webdataset import WebDatasetSource as WebDatasetSource
    from jepa_core.data.splits import HeldOutSettings as HeldOutSettings
    from jepa_core.data.splits import SplitSource as SplitSource
    from jepa_core.data.step_dataset import StepBatch as StepBatch
    from jepa_core.data.transforms import eval_transform as eval_transform
    from jepa_core.data.transforms import train_transform as train_transform
    from jepa_core.runtime.seeding import step_generator as step_generator
    from jepa_core.settings.base import SourceSettings as SourceSettings
    from jepa_core.settings.sections import TransformSettings as TransformSettings


_HOMES = {
    "ArraySamples": "data.samples",
    "BaseSamples": "data.samples",
    "Cifar10Source": "data.sources.cifar10",
    "CorruptSample": "data.images",
    "EvalLoader": "data.eval_batches",
    "FolderSource": "data.sources.folder",
    "HeldOutSettings": "data.splits",
    "HuggingFaceSource": "data.sources.huggingface",
    "StepBatch": "data.step_dataset",
    "InvalidValue": "data.field_transforms.base",
    "ValueTransform": "data.field_transforms.base",
    "NpzSource": "data.sources.npz",
    "SourceSettings": "settings.base",
    "SplitSource": "data.splits",
    "StepLoader": "data.loader",
    "TorchvisionSource": "data.sources.torchvision",
    "TransformSettings": "settings.sections",
    "WebDatasetSource": "data.sources.webdataset",
    "eval_loader": "data.eval_batches",
    "eval_transform": "data.transforms",
    "make_loader": "data.loader",
    "read_image": "data.images",
    "step_generator": "runtime.seeding",
    "to_rgb": "data.images",
    "train_transform": "data.transforms",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa_core.data' has no attribute {name!r}")
    value = getattr(import_module(f"jepa_core.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
