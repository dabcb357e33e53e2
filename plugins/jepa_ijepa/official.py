"""The released I-JEPA checkpoint format, read and written.

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
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.positions import sincos
from jepa_core.types import Grid, grid_size
from jepa_ijepa.encoder import VisionTransformer
from jepa_ijepa.predictor import VitPredictor

PARTS: Mapping[str, type[VisionTransformer] | type[VitPredictor]] = {
    "encoder": VisionTransformer,
    "predictor": VitPredictor,
    "target_encoder": VisionTransformer,
}
TABLES = {"encoder": "pos_embed", "predictor": "predictor_pos_embed", "target_encoder": "pos_embed"}
TABLE_TOLERANCE = 1e-4
NAMED = 3


def load(model: Any, path: str | Path) -> None:
    """Reads a released checkpoint into `model.encoder`, `.predictor` and `.target_encoder`.

    Raises UserError, with the model untouched, for a file that is not there or not such a checkpoint,
    for parts that are other classes than this plugin's, for tensors that are missing, left over or of
    another shape (the first few of each and how many), and for position tables that differ.
    """
    parts, own = _parts(model), _grid(model)
    stored = _read(Path(path))
    for name, part in parts.items():
        _check_table(f"{name}.{TABLES[name]} in {path}", part, stored[name].pop(TABLES[name], None), own)
    complaints = [line for name, part in parts.items() for line in _differences(name, part, stored[name])]
    if complaints:
        raise UserError(f"{path} does not fit this model: {'; '.join(complaints)}")
    for name, part in parts.items():
        part.load_state_dict({_own_key(name, key): value for key, value in stored[name].items()})


def save(model: Any, path: str | Path) -> None:
    """Writes `model.encoder`, `.predictor` and `.target_encoder` in the released format, keys with `module.`.

    Raises UserError for parts that are other classes than this plugin's.
    """
    parts, grid = _parts(model), _grid(model)
    checkpoint = {}
    for name, part in parts.items():
        tensors = {_official_key(name, key): value.cpu() for key, value in part.state_dict().items()}
        tensors[TABLES[name]] = part.positions(grid).cpu()[None]
        checkpoint[name] = {f"module.{key}": value for key, value in tensors.items()}
    torch.save(checkpoint, path)


def _parts(model: Any) -> dict[str, VisionTransformer | VitPredictor]:
    parts = {name: getattr(model, name) for name in PARTS}
    for name, kind in PARTS.items():
        if not isinstance(parts[name], kind):
            came = type(parts[name]).__name__
            raise UserError(
                f"official checkpoints hold a {name} of class {kind.__name__}; this model's is {came}"
            )
    return parts


def _grid(model: Any) -> Grid:
    return model.encoder.grid(model.encoder.view_shape())


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """The three dictionaries, keys without `module.`."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not a file of torch.save, or not all of one ({path.stat().st_size} bytes)"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(f"{path} is not a checkpoint of tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or not all(_is_state(checkpoint.get(name)) for name in PARTS):
        came = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(
            f"{path} is no official checkpoint: expected tensors in {', '.join(PARTS)}; got {came}"
        )
    return {
        name: {key.removeprefix("module."): value for key, value in checkpoint[name].items()}
        for name in PARTS
    }


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


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


def _differences(name: str, part: nn.Module, stored: Mapping[str, Tensor]) -> list[str]:
    """One phrase each for tensors that are missing, unexpected or of another shape."""
    wanted = {_official_key(name, key): value for key, value in part.state_dict().items()}
    missing = [key for key in wanted if key not in stored]
    unexpected = [key for key in stored if key not in wanted]
    reshaped = [
        f"{key} {list(stored[key].shape)} for {list(value.shape)}"
        for key, value in wanted.items()
        if key in stored and stored[key].shape != value.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return [f"{name}: {len(keys)} {what} ({_first(keys)})" for what, keys in found.items() if keys]


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", …" if len(keys) > NAMED else "")
