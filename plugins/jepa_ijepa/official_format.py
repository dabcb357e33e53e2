"""The format `official`: the released I-JEPA checkpoints as runs, and runs as such checkpoints.

What is unusual: sizes are read off the tensors. Heads cannot be: they are those of the released sizes, or
what our own files say in their entry `jepa_core`, or what the user says (`encoder.heads=…`). The stored
position tables have to be the sine-cosine ones, at some scale, and are computed from then on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.formats.base import Export, Weights
from jepa_core.formats.weight_file import SHOWN, Source, type_notes
from jepa_core.nn.patch_grid import image_sides
from jepa_core.nn.sincos import scale_of
from jepa_core.settings import ComponentSettings
from jepa_core.types import Grid
from jepa_ijepa import official
from jepa_ijepa.encoder import OFFICIAL

RELEASED = {
    "masker": {"name": "multiblock"},
    "target_update": {"name": "ema"},
    "transform": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
        "eval_crop": 0.875,
    },
}
"""What the released files do not say: the method, and ImageNet's preprocessing."""


class Official:
    """Released I-JEPA checkpoints (.pth.tar) with context encoder, predictor and target encoder."""

    class Config(ComponentSettings):
        """It has no settings."""

    suffix = ".pth.tar"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, source: Source) -> bool:
        """A file of torch.save with the three parts."""
        is_file = source.path is not None and source.path.is_file()
        return is_file and source.holds_tensors and official.holds_parts(source.content)

    def read(self, source: Source, settings: Mapping[str, Any]) -> Weights:
        """All three parts, in the model whose sizes they have."""
        stored = official.states(source)
        about = _sections(source)
        encoder = about.get("encoder") or encoder_settings(source.name, stored["encoder"], settings)
        grid = tuple(side // encoder["patch_size"] for side in image_sides(encoder["image_size"]))
        tables = {part: stored[part].pop(official.TABLES[part], None) for part in official.PARTS}
        scales = {part: _scale(source.name, part, table, grid) for part, table in tables.items()}
        predictor = about.get("predictor") or predictor_settings(source.name, stored["predictor"])
        sections = {
            **RELEASED,
            **about,
            "encoder": {**encoder, "position_scale": scales["encoder"]},
            "predictor": {**predictor, "position_scale": scales["predictor"]},
        }
        parts = {part: official.own_names(part, tensors) for part, tensors in stored.items()}
        notes = type_notes({f"{part}.{name}": t for part in stored for name, t in stored[part].items()})
        if not about:
            notes += ("preprocessing: ImageNet's, as the released files do not say it",)
        return Weights(sections, parts, notes)

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """All three parts. Raises UserError where one encoder is asked for, and for other parts than ours."""
        if export.role != "target":
            raise UserError("official checkpoints hold both encoders; leave out --role")
        encoder = export.recipe.encoder.model_dump(mode="json", exclude_none=True)
        encoder["patch_size"] = export.model.encoder.patch_embed.patch_size[0]
        about = {
            "encoder": encoder,
            "predictor": export.recipe.predictor.model_dump(mode="json", exclude_none=True),
            "transform": export.preprocessing.section(),
        }
        official.save(export.model, path, about)
        return ["context encoder", "predictor", "target encoder"]


def _sections(source: Source) -> Mapping[str, Any]:
    """The settings that `write` puts beside the parts; empty for released files."""
    about = source.content.get(official.ABOUT, {})
    if not isinstance(about, dict) or not all(isinstance(table, dict) for table in about.values()):
        raise UserError(f"{source.name}: its entry {official.ABOUT!r} is no table of settings by section")
    return about


def encoder_settings(file: str, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name and sizes of the encoder whose tensors these are, keys as released.

    Raises UserError where something cannot be read off them and is not in `settings` either.
    """
    width, _, patch, _ = _tensor(file, tensors, "patch_embed.proj.weight", 4).shape
    depth, hidden = _depth(file, tensors, "blocks."), _tensor(file, tensors, "blocks.0.mlp.fc1.weight", 2)
    tokens = _tensor(file, tensors, "pos_embed", 3).shape[1]
    side = math.isqrt(tokens)
    if side * side != tokens and "image_size" not in settings:
        raise UserError(f"{file}: {tokens} positions are no square grid; give encoder.image_size='[H, W]'")
    size = side * patch if side * side == tokens else settings["image_size"]
    image = {"image_size": size, "patch_size": patch}
    for name, own in OFFICIAL.items():
        ratio = own.get("mlp_ratio", 4.0)
        if (width, depth, len(hidden)) == (own["embed_dim"], own["depth"], int(width * ratio)):
            return {"name": name, **image}
    if "heads" not in settings:
        raise UserError(
            f"{file}: width {width} and depth {depth} are no released size, and heads cannot be seen in "
            "tensors; give encoder.heads"
        )
    sizes = {"width": width, "depth": depth, "heads": settings["heads"], "mlp_ratio": len(hidden) / width}
    return {"name": "official_base", **image, **sizes}


def predictor_settings(file: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of the predictor whose tensors these are, keys as released; its heads are the encoder's."""
    width = len(_tensor(file, tensors, "predictor_embed.weight", 2))
    hidden = len(_tensor(file, tensors, "predictor_blocks.0.mlp.fc1.weight", 2))
    depth = _depth(file, tensors, "predictor_blocks.")
    return {"name": "vit_predictor", "depth": depth, "width": width, "mlp_ratio": hidden / width}


def _tensor(file: str, tensors: Mapping[str, Tensor], name: str, rank: int) -> Tensor:
    if name not in tensors or tensors[name].dim() != rank:
        shape = list(tensors[name].shape) if name in tensors else "nothing"
        raise UserError(f"{file}: expected a tensor {name!r} with {rank} axes; got {shape}")
    return tensors[name]


def _depth(file: str, tensors: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    if numbers != set(map(str, range(len(numbers)))) or not numbers:
        some = ", ".join(sorted(numbers)[:SHOWN]) or "none"
        raise UserError(f"{file}: expected tensors {prefix}0…, {prefix}1…; got {some}")
    return len(numbers)


def _scale(file: str, part: str, table: Tensor | None, grid: Grid) -> float:
    """The scale of a part's position table. Raises UserError for a table that is not the sine-cosine one."""
    name = f"{part}.{official.TABLES[part]}"
    if table is None:
        raise UserError(f"{name} in {file} is missing")
    scale = scale_of(table[0], grid) if table.dim() == 3 else None
    if scale is None:
        raise UserError(
            f"{name} in {file}, {list(table.shape)}, is not the sine-cosine table of grid {grid} at any scale"
        )
    return scale
