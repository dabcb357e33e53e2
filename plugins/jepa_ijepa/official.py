"""The released I-JEPA checkpoint format, read and written.

    jepa import IN1K-vit.h.14-300e.pth.tar          jepa export RUN --to official     (official_format.py)

    from jepa_ijepa import official
    official.load(model, "IN1K-vit.h.14-300e.pth.tar")
    official.save(model, "mine.pth.tar")

A file holds the dictionaries `encoder`, `predictor` and `target_encoder`; their keys may start with
`module.`. What is unusual: loading is strict, and nothing is written into the model before everything
fits. The stored position tables are compared with the computed ones, never loaded.

The entries of the optimizer, the gradient scaler and the epoch are ignored. The weights that were
released are under CC BY-NC 4.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.formats.weight_file import Source, are_tensors, as_fp32, misfits
from jepa_core.nn.sincos import sincos
from jepa_core.types import Grid, grid_size
from jepa_ijepa.encoder import VisionTransformer, refuse_stem
from jepa_ijepa.predictor import VitPredictor

PARTS: Mapping[str, type[VisionTransformer] | type[VitPredictor]] = {
    "encoder": VisionTransformer,
    "predictor": VitPredictor,
    "target_encoder": VisionTransformer,
}
TABLES = {"encoder": "pos_embed", "predictor": "predictor_pos_embed", "target_encoder": "pos_embed"}
TABLE_TOLERANCE = 1e-4
ABOUT = "jepa_core"
"""Entry with the settings and the preprocessing of a file that we wrote."""


def load(model: Any, path: str | Path) -> None:
    """Reads a released checkpoint into `model.encoder`, `.predictor` and `.target_encoder`.

    Raises UserError, with the model untouched, for a file that is not there or not such a checkpoint,
    for parts that are other classes than this plugin's, for tensors that are missing, left over or of
    another shape (the first few of each and how many), and for position tables that differ.
    """
    parts, own = _parts(model), _grid(model)
    stored = states(Source(str(path)))
    for name, part in parts.items():
        _check_table(f"{name}.{TABLES[name]} in {path}", part, stored[name].pop(TABLES[name], None), own)
    complaints = [
        f"{name}: {phrase}"
        for name, part in parts.items()
        for phrase in misfits(
            stored[name], {_official_key(name, k): value for k, value in part.state_dict().items()}
        )
    ]
    if complaints:
        raise UserError(f"{path} does not fit this model: {'; '.join(complaints)}")
    for name, part in parts.items():
        part.load_state_dict(own_names(name, stored[name]))


def save(model: Any, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Writes `model.encoder`, `.predictor` and `.target_encoder` in the released format, keys with `module.`.

    `about`, plain values, is stored beside them as `jepa_core`; the released code passes it over.
    Raises UserError for parts that are other classes than this plugin's, and for a stem.
    """
    parts, grid = _parts(model), _grid(model)
    checkpoint: dict[str, Any] = {} if about is None else {ABOUT: dict(about)}
    for name, part in parts.items():
        tensors = {_official_key(name, key): value.cpu() for key, value in part.state_dict().items()}
        tensors[TABLES[name]] = part.positions(grid).cpu()[None]
        checkpoint[name] = {f"module.{key}": value for key, value in tensors.items()}
    torch.save(checkpoint, path)


def _parts(model: Any) -> dict[str, VisionTransformer | VitPredictor]:
    parts = {name: getattr(model, name) for name in PARTS}
    for name, kind in PARTS.items():
        if not isinstance(parts[name], kind):
            class_name = type(parts[name]).__name__
            raise UserError(
                f"official checkpoints hold a {name} of class {kind.__name__}; this model's is {class_name}"
            )
    refuse_stem(model.encoder.config, "official checkpoints")
    return parts


def _grid(model: Any) -> Grid:
    return model.encoder.grid(model.encoder.view_shape())


def states(source: Source) -> dict[str, dict[str, Tensor]]:
    """The three dictionaries of a file as they were stored, keys without `module.`.

    Raises UserError for a file that cannot be read, or does not hold them.
    """
    checkpoint = source.content
    if not holds_parts(checkpoint):
        is_table = isinstance(checkpoint, dict)
        content = ", ".join(map(str, islice(checkpoint, 10))) if is_table else type(checkpoint).__name__
        raise UserError(
            f"{source.name} is no official checkpoint: expected tensors in {', '.join(PARTS)}; got {content}"
        )
    return {
        name: {key.removeprefix("module."): value for key, value in checkpoint[name].items()}
        for name in PARTS
    }


def holds_parts(checkpoint: Any) -> bool:
    """Whether these are the entries of an official checkpoint."""
    return isinstance(checkpoint, dict) and all(are_tensors(checkpoint.get(name)) for name in PARTS)


def own_names(part: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's tensors in fp32 under the names of our own state dicts."""
    return as_fp32({_own_key(part, key): value for key, value in stored.items()})


def _official_key(part: str, key: str) -> str:
    return key if part != "predictor" or key == "mask_token" else f"predictor_{key}"


def _own_key(part: str, key: str) -> str:
    return key.removeprefix("predictor_") if part == "predictor" else key


def _check_table(what: str, part: VisionTransformer | VitPredictor, table: Tensor | None, own: Grid) -> None:
    """Raises UserError unless the stored table [1, N, D] is the one computed.

    That is for the model's own grid where N is its size, else for a square of N: weights made at one
    image size serve another.
    """
    if table is None:
        raise UserError(f"{what} is missing")
    tokens = table.shape[1] if table.dim() == 3 else 0
    grid = own if tokens == grid_size(own) else (math.isqrt(tokens),) * 2
    if not tokens or table.shape != (1, grid_size(grid), part.width):
        raise UserError(f"{what} is {list(table.shape)}; expected [1, tokens of a square grid, {part.width}]")
    scale = part.config.position_scale
    off = (table[0].double() - sincos(grid, part.width, scale, dtype=torch.float64)).abs().max().item()
    if not off <= TABLE_TOLERANCE:
        raise UserError(
            f"{what} differs by up to {off:.2g} from the sine-cosine table of the grid {grid} "
            f"with position_scale={scale}"
        )
