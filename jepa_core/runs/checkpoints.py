"""Checkpoints: one folder a step that is either whole or not there, checked by hash when it is read.

    checkpoints/step-00002000/model.safetensors   every tensor of the model, the target encoder's too
                              state.pt            what training needs besides: optimizer, random state, counts
                              manifest.json       bytes and SHA-256 of the two

Samples, masks and schedules are functions of the step's number, so the step is the data position. A folder
is written under another name, flushed to the disk and then renamed. `Writer` does that in a thread, so that
training waits for the copy off the device and not for the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import PARTIAL, flush

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")


class DamagedCheckpoint(UserError):
    """A checkpoint that is not what was written."""


def save(
    folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any] | None, keep: int
) -> Path:
    """Writes `checkpoints/step-…` under a run's folder and drops all but the newest `keep`.

    `state` is what `torch.load(weights_only=True)` takes; None for weights that no training stands behind.
    Raises UserError where it cannot be written; checkpoints written before stay as they are.
    """
    final = folder / "checkpoints" / f"step-{step:08d}"
    partial = final.with_name(final.name + PARTIAL)
    try:
        _write(partial, step, weights, state)
        _put(partial, final)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save and safetensors wrap a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"the checkpoint of step {step:,} cannot be written to {final}: {error}") from error
    for old in found(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def _write(folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any] | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(_apart(weights), folder / WEIGHTS)
    if state is not None:
        torch.save(dict(state), folder / STATE)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in folder.iterdir()}
    (folder / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        flush(path)


def _put(partial: Path, final: Path) -> None:
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


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU that share no memory, as safetensors wants them: tied weights are written twice."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.contiguous().cpu()
        apart[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    return apart


def snapshot(value: Any) -> Any:
    """A copy on the CPU of tensors in mappings, lists and tuples: training may go on while it is written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(inner) for inner in value)
    return value


class Writer:
    """Saves a run's checkpoints in a thread, one after the other. Used as a context: waits at its end.

    What went wrong in the thread is raised, as a UserError, by the next call of `save`, `check` or `wait`.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.saved: int | None = None
        """The step that was handed over last."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._written: Future[Path] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:  # an error that ends the run anyway says more than a failed write after it
            self.wait()

    def save(self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copies everything to the CPU and returns; waits first for the checkpoint before."""
        self.wait()
        weights, state = snapshot(weights), snapshot(state)
        self._written = self._thread.submit(save, self.folder, step, weights, state, self.keep)
        self.saved = step

    def check(self) -> None:
        """Raises what went wrong, without waiting."""
        if self._written is not None and self._written.done():
            self._written.result()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk."""
        if self._written is not None:
            self._written.result()


def found(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first, damaged ones too."""
    named = [path for path in (folder / "checkpoints").glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of optimizer steps that were done when it was written."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def verify(checkpoint: Path) -> None:
    """Raises DamagedCheckpoint unless each file has the bytes that were written."""
    try:
        for name, (size, digest) in _manifest(checkpoint).items():
            path = checkpoint / name
            if path.stat().st_size != size:
                raise DamagedCheckpoint(f"{path} has {path.stat().st_size:,} bytes; {size:,} were written")
            if sha256(path) != digest:
                raise DamagedCheckpoint(f"{path} is not what was written: its SHA-256 differs")
    except OSError as error:
        raise DamagedCheckpoint(f"{error.filename}: {error.strerror}") from None


def _manifest(checkpoint: Path) -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of each file that was written."""
    text = (checkpoint / MANIFEST).read_text(encoding="utf-8", errors="replace")
    try:
        files = json.loads(text)["files"]
        return {name: (written["bytes"], written["sha256"]) for name, written in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(f"{checkpoint / MANIFEST} is not a checkpoint's manifest") from None


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with each newer one.

    None where there is no checkpoint at all. Raises UserError where there are some and all are damaged.
    """
    damages: list[str] = []
    for checkpoint in reversed(found(folder)):
        try:
            verify(checkpoint)
        except DamagedCheckpoint as error:
            damages.append(str(error))
        else:
            return checkpoint, damages
    if damages:
        raise UserError(f"every checkpoint of run {str(folder)!r} is damaged: {'; '.join(damages)}")
    return None, []


def latest(folder: Path) -> tuple[Path, list[str]]:
    """`newest_good`, where there must be one: raises UserError where there is none."""
    checkpoint, damages = newest_good(folder)
    if checkpoint is None:
        raise UserError(f"run {str(folder)!r} has no checkpoint in {folder / 'checkpoints'}")
    return checkpoint, damages


def set_aside(folder: Path, newer_than: int) -> None:
    """Renames the damaged checkpoints after a step, so that a run that goes on from there does not keep
    them in place of whole ones."""
    for checkpoint in found(folder):
        if step_of(checkpoint) > newer_than:
            aside = checkpoint.with_name(checkpoint.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(checkpoint, aside)


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Puts a checkpoint's weights into a model, strictly. Raises UserError naming what does not fit."""
    path = checkpoint / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read: {error}") from None
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


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What was saved besides the weights. Raises UserError where there is none, or it cannot be read."""
    path = checkpoint / STATE
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(
            f"checkpoint {checkpoint} holds weights only, no state of a training that could go on"
        ) from None
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        said = str(error).partition("\n")[0]
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read: {said}") from None
    return dict(state)
