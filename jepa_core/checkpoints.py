"""Checkpoints: one folder a step, weights as safetensors, the rest loaded with `weights_only=True`.

    checkpoints/step-00002000/model.safetensors   every tensor of the model, the target encoder's too
                              state.pt            optimizer, step, random state

Samples, masks and schedules are functions of the step's number, so the step is the data position. A
folder is written under another name, then renamed: a name that is there is a whole checkpoint.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.optim import TrainingStep

WEIGHTS, STATE = "model.safetensors", "state.pt"


def save(folder: Path, training: TrainingStep, keep: int) -> Path:
    """Writes `checkpoints/step-…` under the run's folder and drops all but the newest `keep`."""
    final = folder / "checkpoints" / f"step-{training.done:08d}"
    partial = final.with_name(final.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    save_file(_apart(training.model.state_dict()), partial / WEIGHTS)
    state = {
        "step": training.done,
        "optimizer": training.optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(state, partial / STATE)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    for old in found(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU that share no memory, as safetensors wants them: tied weights are written twice."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.contiguous().cpu()
        apart[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    return apart


def found(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("step-*") if p.suffix != ".partial")


def latest(folder: Path) -> Path:
    """The newest checkpoint. Raises UserError where there is none."""
    checkpoints = found(folder)
    if not checkpoints:
        raise UserError(f"run {str(folder)!r} has no checkpoint in {folder / 'checkpoints'}")
    return checkpoints[-1]


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Puts a checkpoint's weights into a model, strictly. Raises UserError naming what does not fit."""
    path = checkpoint / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from None
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {list(tensors[name].shape)}, the model has {list(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise UserError(f"checkpoint {path} is of another model: {shown}")
    model.load_state_dict(tensors)


def load_training(checkpoint: Path, training: TrainingStep) -> None:
    """Puts a checkpoint into a model and its optimizer, to go on as if nothing had happened."""
    load_weights(checkpoint, training.model)
    path = checkpoint / STATE
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from None
    training.optimizer.load_state_dict(state["optimizer"])
    training.done = state["step"]
    torch.set_rng_state(state["random"])
