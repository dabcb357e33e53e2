"""The format `timm`: plain vision transformers, as a folder that timm opens, a bare file, or a model's name.

    timm.create_model("local-dir:FOLDER", pretrained=True)      what a written folder is for

A bare state dict does not say how many heads it has, nor its activation or its norm's epsilon, so the
architecture has to be named: by config.json beside it, or by the user (`encoder.model=…`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.formats.base import Export, Preprocessing, Weights
from jepa_core.formats.weight_file import (
    Source,
    are_tensors,
    as_fp32,
    check_depth,
    check_plain,
    separate_tensors,
    type_notes,
)
from jepa_core.nn.sincos import scale_of
from jepa_core.nn.timm_model import FEATURES
from jepa_core.nn.timm_vit import TimmVit, build
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.parse import parse

HEAD = ("head.", "fc_norm.", "attn_pool.")
"""Tensors of classifiers and of poolings: no part of the encoder."""
NESTED = ("state_dict", "model")
DINOV2 = {"mask_token", "register_tokens"}
"""Tensors that DINOv2's own files have, and timm's models of them do not, by these names."""
CONVERTED = "it has DINOv2's own names; converted as timm does it (its mask token is left out)"


class Timm:
    """timm's plain ViTs; read (folder, file, or name of pretrained weights) and written (folder)."""

    class Config(ComponentSettings):
        """It has no settings."""

    suffix = ""

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, source: Source) -> bool:
        """A folder with timm's config.json, a state dict with a ViT's names, or a model that timm knows."""
        if source.path is None:
            return not source.looks_like_a_path and _is_model(source.name)
        if source.path.is_dir():
            return "architecture" in source.config
        if "jepa_core" in source.metadata:
            return False
        return source.holds_tensors and "patch_embed.proj.weight" in _state_dict(source.content)

    def read(self, source: Source, settings: Mapping[str, Any]) -> Weights:
        """The encoder `timm_vit`, with the model's preprocessing where it is known."""
        if source.path is None:
            model, arguments, about, tensors = _load_pretrained(source.name)
        else:
            model, arguments, about = _architecture(source, settings)
            tensors = _state_dict(source.content)
        if "patch_embed.proj.weight" not in tensors:
            raise UserError(f"{source.name} holds no state dict of a timm vision transformer")
        check_plain(tensors)
        check_depth(source.name, arguments.get("depth"), len(tensors))
        if DINOV2 & tensors.keys():
            tensors, notes = from_dinov2(tensors, model, arguments, source.name), [CONVERTED]
        else:
            notes = []
        left = sorted(name for name in tensors if name.startswith(HEAD))
        tensors = {name: value for name, value in tensors.items() if name not in left}
        notes += [*type_notes(tensors)]
        if left:
            notes.append(f"left out, as no part of the encoder: {', '.join(left)}")
        if "norm.weight" not in tensors:
            arguments["final_norm"] = False
            notes.append("it has no norm after its blocks: features are the last block's output")
        encoder = _encoder(model, arguments, tensors)
        if encoder["positions"] == "sincos":
            del tensors["pos_embed"]
        transform, assumptions = _transform(about, source)
        sections = {"encoder": encoder, "transform": transform}
        return Weights(sections, {"encoder": as_fp32(tensors)}, (*notes, *assumptions))

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """A folder with model.safetensors and timm's config.json."""
        model = export.timm(self.config.name)
        path.mkdir(parents=True)
        tensors = separate_tensors(model.tensors, self.config.name)
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        config = {
            "architecture": model.architecture,
            "num_classes": 0,
            "num_features": export.encoder.width,
            "global_pool": FEATURES["global_pool"],
            "model_args": {**model.arguments, **FEATURES},
            "pretrained_cfg": _pretrained_cfg(export.preprocessing),
        }
        (path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        return [export.encoder_name]


def _is_model(name: str) -> bool:
    import timm

    return bool(timm.is_model(name))


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The state dict of a file, or of its entry `state_dict` or `model`; empty where there is none."""
    for value in (content, *(content.get(key) for key in NESTED if isinstance(content, Mapping))):
        if are_tensors(value):
            return {name.removeprefix("module."): tensor for name, tensor in value.items()}
    return {}


def _load_pretrained(name: str) -> tuple[str, dict[str, Any], Mapping[str, Any], dict[str, Tensor]]:
    """A named model's pretrained weights, from timm's cache or from where timm gets them."""
    import timm

    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm, its hub and its network fail in any way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the weights of timm model {name!r} are not in its cache and cannot be fetched: {reason}"
        ) from None
    return name, {}, model.pretrained_cfg, model.state_dict()


def _architecture(
    source: Source, settings: Mapping[str, Any]
) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """(model, its arguments, what config.json says of its images) of a file or folder."""
    config = source.config if "architecture" in source.config else {}
    model = settings.get("model", config.get("architecture"))
    if not isinstance(model, str):
        raise UserError(
            f"{source.name} does not say which timm model it is of, and tensors do not show heads and "
            "activation; name it: encoder.model=vit_small_patch16_224"
        )
    arguments = {**_table(source, config, "model_args"), **settings.get("arguments", {})}
    arguments = {k: v for k, v in arguments.items() if k not in FEATURES and v is not None}
    return model, arguments, _table(source, config, "pretrained_cfg")


def _table(source: Source, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{source.name}: {key!r} in config.json is a {kind}; expected a JSON object")
    return value


def from_dinov2(
    tensors: Mapping[str, Tensor], model: str, arguments: Mapping[str, Any], name: str
) -> dict[str, Tensor]:
    """Tensors under DINOv2's own names as timm's. With registers the class token's position is added to it.

    timm converts them itself when it loads such a file. Raises UserError for positions of another grid, which
    timm would resize.
    """
    with torch.device("meta"):
        vit = build(
            parse(TimmVit.Config, {"name": "timm_vit", "model": model, "arguments": arguments}, "encoder")
        )
    patches, table = vit.patch_embed.num_patches, tensors.get("pos_embed")
    if table is None or table.shape[1:] != (patches + 1, vit.embed_dim):
        shape = None if table is None else list(table.shape)
        raise UserError(
            f"{name}: pos_embed is {shape}; {model!r} has {patches} patches and a class token, "
            f"{[1, patches + 1, vit.embed_dim]}. Another image size: encoder.arguments.img_size=…"
        )
    named = {"mask_token": torch.zeros(1), **tensors}  # by it timm knows the names
    try:
        return dict(checkpoint_filter_fn(named, vit))
    except Exception as error:  # tensors of any shape
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: timm cannot convert its DINOv2 names to {model!r}: {reason}") from None


def _encoder(model: str, arguments: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of `timm_vit`; with `positions = "sincos"` where the stored table is the sine-cosine one."""
    encoder: dict[str, Any] = {
        "name": "timm_vit",
        "model": model,
        "arguments": arguments,
        "positions": "stored",
    }
    with torch.device("meta"):
        outline = TimmVit(parse(TimmVit.Config, encoder, "encoder"))
    encoder["image_size"] = list(outline.view_shape()[1:])
    table = tensors.get("pos_embed")
    if table is not None and table.dim() == 3 and len(table) == 1 and not outline.prefix:
        scale = scale_of(table[0], outline.grid(outline.view_shape()))
        if scale is not None:
            encoder |= {"positions": "sincos", "position_scale": scale}
    return encoder


def _transform(about: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], list[str]]:
    """The recipe's section, from a `pretrained_cfg`; and what had to be assumed."""
    for key in ("mean", "std"):
        if key in about and not _is_colour(about[key]):
            raise UserError(
                f"{source.name}: {key!r} in config.json is {about[key]!r:.60}; expected 3 numbers"
            )
    if not {"mean", "std"} <= about.keys():
        return {}, ["it does not say how its images were prepared: taken from the recipe (transform.mean=…)"]
    mode, notes = about.get("interpolation", "bicubic"), []
    if mode not in ("bilinear", "bicubic"):
        notes, mode = [f"its images were resized by {mode!r}; taken as bicubic"], "bicubic"
    section: dict[str, Any] = {"mean": list(about["mean"]), "std": list(about["std"]), "interpolation": mode}
    return {**section, "eval_crop": about.get("crop_pct", 1.0)}, notes


def _is_colour(value: Any) -> bool:
    plain = isinstance(value, list | tuple) and len(value) == 3
    return plain and all(isinstance(number, int | float) for number in value)


def _pretrained_cfg(images: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": [3, *images.image_size],
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "crop_pct": images.crop,
        "crop_mode": "center",
        "num_classes": 0,
        "pool_size": None,
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
