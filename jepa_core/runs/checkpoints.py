"""Checkpoints: one folder a step that is either whole or not there, checked by hash when it is read.

    checkpoints/step-00002000/model.safetensors   every tensor of the model, the target encoder's too
                              state.pt            what training needs besides: optimizer, counts, data hash
                              manifest.json       format version, step, bytes and SHA-256 of the two

Samples, masks and schedules are functions of the step's number, so the step is the data position. A folder
is written under another name, flushed to the disk and then renamed.

What is unusual: damaged and unreadable are two things. A damaged checkpoint (`DamagedCheckpoint`) is not what
was written; it is passed over for an older one. One that cannot be read (permission, a file server that is
away) may be whole, so it stops the command and stays as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import PARTIAL, atomic_path, atomic_write, flush
from jepa_core.runtime.json_lines import is_count
from jepa_core.runtime.regular_file import irregularity

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"

FORMAT = 1
"""Version of the three files together. Checkpoints without one were written before it was counted."""

_NAME = re.compile(r"step-(\d{8,18})")

_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""Errors that mean that a file is not what was written; all others mean that it cannot be read now."""


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written."""


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any] | None, keep: int
) -> Path:
    """Writes `checkpoints/step-…` under a run's folder and drops all but the newest `keep`.

    Weights that a training began with (`is_initial`) stay. `state` is what `torch.load(weights_only=True)`
    takes; None for weights that no training stands behind. Raises UserError where it cannot be written;
    checkpoints written before stay as they are.
    """
    final = folder / "checkpoints" / f"step-{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    try:
        _write(partial, step, weights, state)
        _move_into_place(partial, final)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save and safetensors wrap a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"the checkpoint of step {step:,} cannot be written to {final}: {error}") from error
    for old in [path for path in list_checkpoints(folder) if not is_initial(path)][:-keep]:
        shutil.rmtree(old, ignore_errors=True)  # what is left of it is damaged, and goes the next time
    return final


def _write(folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any] | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with atomic_path(folder / WEIGHTS) as partial:
        save_file(_without_shared_memory(weights), partial)
    if state is not None:
        with atomic_path(folder / STATE) as partial:
            torch.save({"format": FORMAT, **state}, partial)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in folder.iterdir()}
    manifest = {"format": FORMAT, "step": step, "files": files}
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1))
    flush(folder)


def _move_into_place(partial: Path, final: Path) -> None:
    """Renames a whole checkpoint to its place; one of the same step makes way first."""
    if final.exists():
        aside = final.with_name(final.name + ".replaced")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(final, aside)
        os.replace(partial, final)
        shutil.rmtree(aside)
    else:
        os.replace(partial, final)
    flush(final.parent)


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU that share no memory, as safetensors wants them: tied weights are written twice."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.contiguous().cpu()
        separate[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    return separate


def list_checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first, damaged ones too. Raises UserError where they cannot be listed."""
    place = folder / "checkpoints"
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from None
    return sorted((place / name for name in names if _NAME.fullmatch(name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimizer steps that were done when it was written."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def is_initial(checkpoint: Path) -> bool:
    """Whether it holds weights that a training begins with: imported ones, or those of `[init.PART]`."""
    return step_of(checkpoint) == 0 and not (checkpoint / STATE).exists()


def verify(checkpoint: Path) -> None:
    """Raises DamagedCheckpoint unless each file has the bytes that were written, and UserError where a file
    cannot be read, or was written by a later version."""
    try:
        for name, (size, digest) in _read_manifest(checkpoint).items():
            path = checkpoint / name
            _check_regular(path)
            if path.stat().st_size != size:
                raise DamagedCheckpoint(f"{path} has {path.stat().st_size:,} bytes; {size:,} were written")
            if sha256(path) != digest:
                raise DamagedCheckpoint(f"{path} is not what was written: its SHA-256 differs")
    except OSError as error:
        raise _read_error(checkpoint, error) from None


def _check_regular(path: Path) -> None:
    """Raises DamagedCheckpoint for a folder, and for a pipe or a device, which can hang a reader."""
    kind = irregularity(path)
    if kind is not None:
        raise DamagedCheckpoint(f"{path} is {kind}; expected a regular file")


def _read_error(checkpoint: Path, error: OSError) -> UserError:
    """A DamagedCheckpoint where a file is missing or a folder; otherwise that it cannot be read."""
    path = error.filename or checkpoint
    if error.errno in _DAMAGE:
        return DamagedCheckpoint(f"{path}: {error.strerror}")
    return UserError(
        f"checkpoint {checkpoint} cannot be read ({path}: {error.strerror or error}), which does not mean "
        "that it is damaged; nothing was changed"
    )


def _read_manifest(checkpoint: Path) -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of each file that was written. Raises as `verify` does."""
    path = checkpoint / MANIFEST
    _check_regular(path)
    try:
        manifest = json.loads(path.read_bytes())
        version, step = manifest.get("format", FORMAT), manifest["step"]
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedCheckpoint(f"{path} is not a checkpoint's manifest") from None
    check_format(path, version)
    if step != step_of(checkpoint) or not is_count(step):
        raise DamagedCheckpoint(f"{path} is of step {step!r:.30}, and its folder of {step_of(checkpoint)}")
    if WEIGHTS not in files or not files.keys() <= {WEIGHTS, STATE}:
        names = ", ".join(map(repr, files)) or "none"
        raise DamagedCheckpoint(f"{path} names the files {names:.80}; expected {WEIGHTS!r}, {STATE!r}")
    if STATE not in files and (checkpoint / STATE).exists():
        raise DamagedCheckpoint(f"{path} does not name {STATE!r}, which is there")
    if not all(is_count(size) and isinstance(digest, str) for size, digest in files.values()):
        raise DamagedCheckpoint(f"{path} is not a checkpoint's manifest")
    return files


def check_format(path: Path, version: Any) -> None:
    """Raises UserError for a file of a later version, DamagedCheckpoint where the version is no number."""
    if not is_count(version) or version < 1:
        raise DamagedCheckpoint(f"{path} has format {version!r:.30}; expected a number from 1")
    if version > FORMAT:
        raise UserError(
            f"{path} was written by a later version of jepa-core (format {version}; this one reads up to "
            f"{FORMAT}); upgrade jepa-core"
        )


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one.

    None where there is none at all. Raises UserError where all are damaged (those after the weights that
    training began with), and where one cannot be read.
    """
    damages: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify(checkpoint)
        except DamagedCheckpoint as error:
            damages.append(str(error))
        else:
            if not (damages and is_initial(checkpoint)):
                return checkpoint, damages
    if damages:
        raise UserError(f"every checkpoint of run {str(folder)!r} is damaged: {'; '.join(damages)}")
    return None, []


def latest_checkpoint(folder: Path) -> tuple[Path, list[str]]:
    """`newest_good`, where there must be one: raises UserError where there is none."""
    checkpoint, damages = newest_good(folder)
    if checkpoint is None:
        raise UserError(f"run {str(folder)!r} has no checkpoint in {folder / 'checkpoints'}")
    return checkpoint, damages


def set_aside(folder: Path, newer_than: int) -> None:
    """Renames the damaged checkpoints after a step, so that a run that goes on from there does not keep
    them in place of whole ones."""
    for checkpoint in list_checkpoints(folder):
        if step_of(checkpoint) > newer_than:
            aside = checkpoint.with_name(checkpoint.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(checkpoint, aside)


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Puts a checkpoint's weights into a model, strictly. Raises UserError naming what does not fit."""
    path = checkpoint / WEIGHTS
    try:
        path.open("rb").close()  # safetensors' own error for a file that cannot be opened is of its own kind
        tensors = load_file(path)
    except OSError as error:
        raise _read_error(checkpoint, error) from None
    except SafetensorError as error:
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read: {error}") from None
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {_form(tensors[name], value)}, the model has {_form(value, tensors[name])}"
        for name, value in expected.items()
        if name in tensors and (tensors[name].shape, tensors[name].dtype) != (value.shape, value.dtype)
    ]
    if problems:
        text = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise UserError(f"checkpoint {path} is of another model: {text}")
    model.load_state_dict(tensors)


def _form(tensor: Tensor, like: Tensor) -> str:
    """A tensor's shape, or its type where the other one has the same shape."""
    return str(tensor.dtype if tensor.shape == like.shape else list(tensor.shape))


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What was saved besides the weights: a dictionary, whose entries their owners check when they load them.

    Raises UserError where there is none, or it cannot be read.
    """
    path = checkpoint / STATE
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on files that are no state of ours
            state = torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(
            f"checkpoint {checkpoint} holds weights only, no state of a training that could go on"
        ) from None
    except OSError as error:
        raise _read_error(checkpoint, error) from None
    except Exception as error:  # a file that is no state fails in torch.load in any way
        text = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read: {text}") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"checkpoint {path} holds no state: it is a {type(state).__name__}")
    check_format(path, state.pop("format", FORMAT))
    return state
