"""The format `huggingface`: folders of transformers' `IJepaModel`, read and written.

    AutoModel.from_pretrained(FOLDER), AutoImageProcessor.from_pretrained(FOLDER)   takes a written one

What is unusual: transformers is not needed. Its model is one encoder without predictor, whose positions
are a table that may have been trained: the sine-cosine one is computed from then on, any other is kept
(in core's encoder `timm_vit`). Such a folder does not say which of I-JEPA's encoders it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.formats.base import Export, Preprocessing, Weights
from jepa_core.formats.weight_file import Source, are_tensors, as_fp32, check_depth, misfits, type_notes
from jepa_core.nn.patch_grid import image_sides
from jepa_core.nn.sincos import scale_of
from jepa_core.settings import ComponentSettings

TABLE = "embeddings.position_embeddings"
LEFT_OUT = ("classifier.", "pooler.", "embeddings.mask_token")
AROUND = {"embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm"}
IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
QKV = ("query", "key", "value")
EPS = 1e-6
"""Of the layer norms of timm's plain ViTs, and of I-JEPA's."""
RESAMPLE = {2: "bilinear", 3: "bicubic"}


class HuggingFace:
    """Folders of transformers' IJepaModel (config.json, model.safetensors, preprocessor_config.json)."""

    class Config(ComponentSettings):
        """It has no settings."""

    suffix = ""

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, source: Source) -> bool:
        """A folder, or a file in one, whose config.json is of the model type `ijepa`."""
        return source.config.get("model_type") == "ijepa"

    def read(self, source: Source, settings: Mapping[str, Any]) -> Weights:
        """The encoder alone: of this plugin, or `timm_vit` where its positions are trained ones."""
        if not self.recognises(source):
            raise UserError(f"{source.name} is no folder with a config.json of model_type 'ijepa'")
        config = _sizes(source)
        tensors, left = _own_tensors(source, config["num_hidden_layers"])
        notes = [*type_notes(source.content)]
        if left:
            notes.append(f"left out, as no part of the encoder: {', '.join(left)}")
        if config["layer_norm_eps"] < EPS:
            notes.append(f"layer_norm_eps {config['layer_norm_eps']:g} is read as {EPS:g}")
        encoder, trained = _encoder(config, tensors)
        if trained:
            notes.append("its positions are trained ones: kept as stored, resized for other image sizes")
        else:
            del tensors["pos_embed"]
        transform, assumptions = _transform(source)
        sections = {"encoder": encoder, "transform": transform}
        return Weights(sections, {"encoder": as_fp32(tensors)}, (*notes, *assumptions))

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """A folder. Raises UserError for an encoder that IJepaModel cannot be."""
        vit: Any = export.timm(self.config.name).build()
        eps, hidden = _eps(vit), vit.blocks[0].mlp.fc1.out_features
        tensors = _peer_tensors(vit.state_dict())
        path.mkdir(parents=True)
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        height, width = export.preprocessing.image_size
        config = {
            "architectures": ["IJepaModel"],
            "model_type": "ijepa",
            "hidden_size": export.encoder.width,
            "num_hidden_layers": export.encoder.depth,
            "num_attention_heads": export.encoder.heads,
            "intermediate_size": hidden,
            "hidden_act": "gelu",
            "layer_norm_eps": eps,
            "image_size": height if height == width else [height, width],
            "patch_size": vit.patch_embed.patch_size[0],
            "num_channels": 3,
            "qkv_bias": True,
            "dtype": "float32",
        }
        processor = _processor(export.preprocessing)
        for name, value in (("config", config), ("preprocessor_config", processor)):
            (path / f"{name}.json").write_text(json.dumps(value, indent=2), encoding="utf-8")
        return [export.encoder_name]


def _sizes(source: Source) -> dict[str, Any]:
    """The sizes of a config.json. Raises UserError for one that lacks some, or asks for what we have not."""
    defaults = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16}
    sizes = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    config = {**defaults, **sizes, **source.config}
    for key in sizes:
        if type(config[key]) is not int or config[key] < 1:
            raise UserError(f"{source.name}: {key!r} in config.json is {config[key]!r:.60}; expected a size")
    check_depth(source.name, config["num_hidden_layers"], len(source.content))
    if config["hidden_act"] != "gelu" or config["layer_norm_eps"] > EPS:
        raise UserError(
            f"{source.name}: hidden_act {config['hidden_act']!r}, layer_norm_eps "
            f"{config['layer_norm_eps']:g}; expected 'gelu' and at most {EPS:g}"
        )
    return config


def _pairs(depth: int) -> Iterator[tuple[str, str]]:
    """(their name, ours) of every layer but query, key and value, which are one in ours."""
    yield from AROUND.items()
    for block in range(depth):
        for peer, own in IN_BLOCK.items():
            yield f"encoder.layer.{block}.{peer}", f"blocks.{block}.{own}"


def _own_tensors(source: Source, depth: int) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, the table as `pos_embed`; and the names that were left out.

    Raises UserError where a tensor is missing or left over.
    """
    if not are_tensors(source.content):
        raise UserError(f"{source.name} holds no tensors by name")
    stored = {name.removeprefix("ijepa."): value for name, value in source.content.items()}
    left = sorted(name for name in stored if name.startswith(LEFT_OUT))
    rest = {name: value for name, value in stored.items() if name not in left}
    names = {f"{peer}.{end}": f"{own}.{end}" for peer, own in _pairs(depth) for end in ("weight", "bias")}
    names[TABLE] = "pos_embed"
    merged = {
        f"blocks.{block}.attn.qkv.{end}": [
            f"encoder.layer.{block}.attention.attention.{part}.{end}" for part in QKV
        ]
        for block in range(depth)
        for end in ("weight", "bias")
    }
    expected = [*names, *(name for parts in merged.values() for name in parts)]
    complaints = misfits(rest, {name: rest.get(name, torch.empty(0)) for name in expected})
    if complaints:
        raise UserError(f"{source.name} is not the IJepaModel of its config.json: {'; '.join(complaints)}")
    renamed = {own: rest[peer] for peer, own in names.items()}
    return renamed | {own: torch.cat([rest[part] for part in parts]) for own, parts in merged.items()}, left


def _encoder(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], bool]:
    """The recipe's section, and whether the positions are trained ones."""
    size, patch = list(image_sides(config["image_size"])), image_sides(config["patch_size"])
    if patch[0] != patch[1]:
        raise UserError(f"patches of {patch[0]}x{patch[1]} pixels; expected square ones")
    scale = scale_of(tensors["pos_embed"][0], (size[0] // patch[0], size[1] // patch[0]))
    width, depth, heads = (
        config[f"{key}"] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    ratio = config["intermediate_size"] / width
    if scale is not None:
        sizes = {"width": width, "depth": depth, "heads": heads, "mlp_ratio": ratio}
        images = {"image_size": size, "patch_size": patch[0], "position_scale": scale}
        return {"name": "official_base", **sizes, **images}, False
    arguments = {
        "img_size": size,
        "patch_size": patch[0],
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
    }
    arguments |= {"mlp_ratio": ratio, "class_token": False}
    model = {"name": "timm_vit", "model": "vit_base_patch16_224", "image_size": size}
    return {**model, "arguments": arguments}, True


def _transform(source: Source) -> tuple[dict[str, Any], list[str]]:
    """The recipe's section from preprocessor_config.json; and what had to be taken for granted."""
    processor = source.json("preprocessor_config.json")
    if "image_mean" not in processor:
        return {}, ["it does not say how its images were prepared: taken from the recipe (transform.mean=…)"]
    section: dict[str, Any] = {"mean": list(processor["image_mean"]), "std": list(processor["image_std"])}
    section["interpolation"] = RESAMPLE.get(processor.get("resample", 2), "bilinear")
    crop, size = processor.get("crop_size"), processor.get("size", {})
    if processor.get("do_center_crop") and crop and "shortest_edge" in size:
        section["eval_crop"] = max(crop["height"], crop["width"]) / size["shortest_edge"]
    if section["mean"] == [0.5, 0.5, 0.5]:
        why = "its processor says mean .5, transformers' default; I-JEPA's released weights were trained with"
        return section, [f"{why} ImageNet's (transform.mean='[0.485, 0.456, 0.406]', std likewise)"]
    return section, []


def _eps(vit: Any) -> float:
    """ε of a timm model's norms. Raises UserError for blocks that IJepaModel does not have."""
    acts = [block.mlp.act for block in vit.blocks if type(block) is Block]
    eps = {m.eps for m in vit.modules() if isinstance(m, nn.LayerNorm)}
    gelu = all(type(act) is nn.GELU and act.approximate == "none" for act in acts)
    if len(acts) != len(vit.blocks) or not gelu or len(eps) != 1:
        raise UserError("IJepaModel has plain blocks with exact GELU; this encoder has others")
    return float(eps.pop())


def _peer_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under transformers' names. Raises UserError for some that IJepaModel has no place for."""
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    names = {f"{own}.{end}": f"{peer}.{end}" for peer, own in _pairs(depth) for end in ("weight", "bias")}
    names["pos_embed"] = TABLE
    result: dict[str, Tensor] = {}
    odd = []
    for name, value in tensors.items():
        if name in names:
            result[names[name]] = value.contiguous()
        elif ".attn.qkv." in name:
            block, end = name.split(".")[1], name.rpartition(".")[2]
            for part, third in zip(QKV, value.chunk(3), strict=True):
                result[f"encoder.layer.{block}.attention.attention.{part}.{end}"] = third.contiguous()
        else:
            odd.append(name)
    if odd:
        raise UserError(f"IJepaModel has no place for {', '.join(odd[:3])}; --to timm or safetensors has")
    return result


def _processor(images: Preprocessing) -> dict[str, Any]:
    """An image processor that resizes the shorter side, crops and normalises; square images are ours."""
    height, width = images.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(max(height, width) / images.crop)},
        "resample": {name: number for number, name in RESAMPLE.items()}[images.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
    }
