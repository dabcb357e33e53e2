"""Core's own plugin: its components, offered through the same hooks as those of any other plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jepa_core.hookspecs import hookimpl


@hookimpl
def jepa_variants() -> Mapping[str, type]:
    from jepa_core.jepa import JEPA

    return {"jepa": JEPA}


@hookimpl
def jepa_encoders() -> Mapping[str, type]:
    from jepa_core.nn.bag_of_words import BagOfWords
    from jepa_core.nn.text_transformer import TextTransformer
    from jepa_core.nn.timm_vit import TimmVit
    from jepa_core.nn.vector_mlp import VectorMlp

    return {
        "timm_vit": TimmVit,
        "text_transformer": TextTransformer,
        "bag_of_words": BagOfWords,
        "vector_mlp": VectorMlp,
    }


@hookimpl
def jepa_predictors() -> Mapping[str, type]:
    from jepa_core.nn.identity import NoPredictor

    return {"none": NoPredictor}


@hookimpl
def jepa_maskers() -> Mapping[str, type]:
    from jepa_core.maskers.none import NoMasks

    return {"none": NoMasks}


@hookimpl
def jepa_target_updates() -> Mapping[str, type]:
    from jepa_core import target_updates as t

    return {"ema": t.Ema, "none": t.NoTarget, "frozen": t.Frozen, "copy": t.PeriodicCopy}


@hookimpl
def jepa_objectives() -> Mapping[str, type]:
    from jepa_core.objectives.cross_entropy import CrossEntropy
    from jepa_core.objectives.infonce import InfoNCE
    from jepa_core.objectives.prediction import L1, MSE, Cosine, SmoothL1
    from jepa_core.objectives.sigreg import SIGReg
    from jepa_core.objectives.variance_covariance import VarianceCovariance
    from jepa_core.objectives.vicreg import VICReg

    return {
        "smooth_l1": SmoothL1,
        "l1": L1,
        "mse": MSE,
        "cosine": Cosine,
        "variance_covariance": VarianceCovariance,
        "sigreg": SIGReg,
        "vicreg": VICReg,
        "infonce": InfoNCE,
        "cross_entropy": CrossEntropy,
    }


@hookimpl
def jepa_optimizers() -> Mapping[str, type]:
    from jepa_core.optimizers.adamw import AdamW
    from jepa_core.optimizers.muon import Muon, has_muon
    from jepa_core.optimizers.sgd import SGD
    from jepa_core.optimizers.timm import TimmOptimizer

    muon = {"muon": Muon} if has_muon() else {}
    return {"adamw": AdamW, "sgd": SGD, "timm_*": TimmOptimizer, **muon}


@hookimpl
def jepa_data() -> Mapping[str, type]:
    from jepa_core.data.sources.cifar10 import Cifar10Source
    from jepa_core.data.sources.folder import FolderSource
    from jepa_core.data.sources.huggingface import HuggingFaceSource
    from jepa_core.data.sources.labelled import LabelledSource
    from jepa_core.data.sources.mix import MixSource
    from jepa_core.data.sources.npz import NpzSource
    from jepa_core.data.sources.torchvision import TorchvisionSource
    from jepa_core.data.sources.webdataset import WebDatasetSource

    return {
        "cifar10": Cifar10Source,
        "folder": FolderSource,
        "huggingface": HuggingFaceSource,
        "labelled": LabelledSource,
        "mix": MixSource,
        "npz": NpzSource,
        "torchvision": TorchvisionSource,
        "webdataset": WebDatasetSource,
    }


@hookimpl
def jepa_transforms() -> Mapping[str, type]:
    from jepa_core.data.field_transforms.crop import Crop
    from jepa_core.data.field_transforms.follow_view import FollowView
    from jepa_core.data.field_transforms.log_mel import LogMel
    from jepa_core.data.field_transforms.numbers import Normalise, NoTransform
    from jepa_core.data.field_transforms.tokenize import Tokenize

    return {
        "crop": Crop,
        "follow_view": FollowView,
        "none": NoTransform,
        "normalise": Normalise,
        "tokenize": Tokenize,
        "log_mel": LogMel,
    }


@hookimpl
def jepa_probes() -> Mapping[str, type]:
    from jepa_core.evaluate.attentive import AttentiveProbe
    from jepa_core.evaluate.probes import KNN, LinearProbe

    return {"knn": KNN, "linear": LinearProbe, "attentive": AttentiveProbe}


@hookimpl
def jepa_evaluations() -> Mapping[str, Callable[..., Any]]:
    from jepa_core.evaluate.dense.depth import depth
    from jepa_core.evaluate.dense.depth_bins import DepthBins
    from jepa_core.evaluate.dense.segmentation import Segmentation
    from jepa_core.evaluate.frozen.class_retrieval import ClassRetrieval
    from jepa_core.evaluate.frozen.label_free import LabelFree
    from jepa_core.evaluate.frozen.layers import Layers
    from jepa_core.evaluate.frozen.low_shot import LowShot
    from jepa_core.evaluate.frozen.many_heads import ManyHeads
    from jepa_core.evaluate.frozen.shift import Shift
    from jepa_core.evaluate.regression import regression
    from jepa_core.evaluate.retrieval import retrieval
    from jepa_core.evaluate.zero_shot import zero_shot
    from jepa_core.settings.evaluations import OnRequest

    by_name = {"retrieval": retrieval, "zero_shot": zero_shot, "regression": regression}
    frozen: dict[str, Callable[..., Any]] = {
        "layers": Layers,
        "low_shot": LowShot,
        "many_heads": ManyHeads,
        "class_retrieval": ClassRetrieval,
        "shift": Shift,
        "label_free": LabelFree,
    }
    dense: dict[str, Callable[..., Any]] = {
        "depth": depth,
        "depth_bins": DepthBins,
        "segmentation": Segmentation,
    }
    return {**by_name, **{name: OnRequest(one) for name, one in {**frozen, **dense}.items()}}


@hookimpl
def jepa_sections() -> Mapping[str, Callable[..., Any]]:
    from jepa_core.report.dense_maps import depth_maps, segmentation_maps

    return {"depth_maps": depth_maps, "segmentation_maps": segmentation_maps}


@hookimpl
def jepa_formats() -> Mapping[str, type]:
    from jepa_core.formats.onnx import Onnx
    from jepa_core.formats.safetensors import Safetensors
    from jepa_core.formats.timm import Timm

    return {"timm": Timm, "safetensors": Safetensors, "onnx": Onnx}
