"""Where weights come from: a file, a folder, or a name. Read strictly, and each file once.

What is unusual: nothing in a file is run (`weights_only=True`, safetensors), files of torch.save are mapped
into memory and not read whole, and tensors stay in the type they were stored in until a format has
compared the position tables, whose tolerance depends on it.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.runs.checkpoints import sha256
from jepa_core.runtime.regular_file import irregularity

FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHOWN = 3
"""Names of tensors that an error lists."""
MAX_JSON = 16_000_000
"""Bytes of a JSON file that is read."""


class Source:
    """What the user named: `path` where it is a file or a folder, else only a `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(name) if os.path.exists(name) else None

    @property
    def looks_like_a_path(self) -> bool:
        """Whether a name that is no existing file looks like a path, not like a model's name."""
        return "/" in self.name or Path(self.name).suffix in (".safetensors", ".pth", ".bin", ".tar", ".pt")

    def check_kind(self) -> None:
        """Raises UserError for a pipe, a socket or a device."""
        kind = None if self.path is None else irregularity(self.path)
        if kind not in (None, "a folder"):
            raise UserError(f"{self.name!r} is {kind}; expected a file or a folder of weights")

    @cached_property
    def file(self) -> Path | None:
        """The file that holds the tensors: the path itself, or the one of that name in the folder."""
        if self.path is None or self.path.is_file():
            return self.path
        return next((self.path / name for name in FOLDER_WEIGHTS if (self.path / name).is_file()), None)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json of the folder, or beside the file; empty where there is none."""
        return self.json("config.json")

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON object that lies in the folder, or beside the file; empty where there is none."""
        if self.path is None:
            return {}
        path = (self.path if self.path.is_dir() else self.path.parent) / name
        if not path.is_file():
            return {}
        size = path.stat().st_size
        if size > MAX_JSON:
            raise UserError(f"{path} has {size:,} bytes; expected a JSON object of at most {MAX_JSON:,}")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise UserError(f"{path} is nested too deeply") from None
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise UserError(f"{path} is a {type(value).__name__}; expected a JSON object")
        return value

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The text entries of a .safetensors file's header."""
        if self.file is None or self.file.suffix != ".safetensors":
            return {}
        with _open_safetensors(self.file) as file:
            return file.metadata() or {}

    @cached_property
    def holds_tensors(self) -> bool:
        """Whether the file's name or first bytes are those of tensors (safetensors, torch.save)."""
        if self.file is None or self.file.suffix == ".safetensors":
            return self.file is not None
        with self.file.open("rb") as file:
            return file.read(4).startswith((b"PK\x03\x04", b"\x80"))

    @cached_property
    def content(self) -> Any:
        """What the file holds: tensors by name, or whatever torch.save was given; as it was stored.

        Raises UserError for a file that is not there, damaged, or holds more than tensors and plain values.
        """
        self.check_kind()
        if self.file is None:
            where = f"no {' or '.join(FOLDER_WEIGHTS)} in folder" if self.path else "no file or folder"
            raise UserError(f"{where} {self.name!r}")
        if self.file.suffix == ".safetensors":
            with _open_safetensors(self.file) as file:
                return _tensors(file, self.file)
        return _load_pickle(self.file)

    def sha256(self) -> str | None:
        """SHA-256 of the file with the tensors; None for a name."""
        return None if self.file is None else sha256(self.file)


def _tensors(file: Any, path: Path) -> dict[str, Tensor]:
    try:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except Exception as error:  # a type that torch lacks, a tensor that is cut off
        raise UserError(f"{path} is not read: {' '.join(str(error).split())}") from None


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a whole .safetensors file: {error}") from None


def _load_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how it validates sparse tensors
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle fails in any way: a KeyError for a file of text
        raise UserError(f"{path} is not read: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not loaded, in place of torch's message, which advises to load it unsafely."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks for {asked[1]}, and only tensors and plain values are loaded"
    return f"it is not a whole file of torch.save ({path.stat().st_size:,} bytes)"


def are_tensors(value: Any) -> bool:
    """Whether this is a state dict: tensors by name, at least one."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def as_fp32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors; floating ones in fp32. Raises UserError for tensors that are no plain arrays."""
    check_plain(tensors)
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def check_depth(file: str, depth: Any, tensors: int) -> None:
    """Raises UserError for more blocks than a file has tensors: building them could take for ever."""
    if isinstance(depth, int) and depth > tensors:
        raise UserError(f"{file} says that its depth is {depth:,}, and holds {tensors:,} tensors")


def check_plain(tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError for a tensor that is no array of values in memory, such as a sparse one."""
    for name, tensor in tensors.items():
        fault = _fault(tensor)
        if fault:
            raise UserError(f"tensor {name!r} is {fault}; expected one value for each place, in memory")


def _fault(tensor: Tensor) -> str | None:
    """What keeps a tensor from being copied into a model."""
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        return "quantized" if tensor.is_quantized else "sparse or nested"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type!r}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"of shape {list(tensor.shape)}, with fewer values in the file"
    return None


def nonfinite_notes(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A sentence on NaN and infinite values, if there are any."""
    names = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if not names:
        return ()
    return (f"NaN or infinite values in {len(names)} of {len(tensors)} tensors ({_first(names)})",)


def separate_tensors(state: Mapping[str, Any], form: str) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, to be written. Raises UserError for others."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            kind = type(value).__name__
            raise UserError(f"format {form!r} holds plain tensors; {name!r} of this encoder is a {kind}")
        tensor = value.detach().contiguous().cpu()
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if address in storages else tensor
        storages.add(address)
    return separate


def type_notes(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A sentence on tensors that were stored in a type other than fp32, if there are any."""
    types = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()}
    return (f"stored as {', '.join(sorted(types))}, read as float32",) if types != {"float32"} else ()


def misfits(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """A phrase each for tensors that are missing, left over, or of another shape or type: how many, some."""
    complaints = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} {list(stored[name].shape)} for {list(value.shape)}"
            for name, value in expected.items()
            if name in stored and stored[name].shape != value.shape
        ],
        "of another type": [
            f"{name} {_type(stored[name])} for {_type(value)}"
            for name, value in expected.items()
            if name in stored and not torch.can_cast(stored[name].dtype, value.dtype)
        ],
    }
    return [f"{len(names)} {what} ({_first(names)})" for what, names in complaints.items() if names]


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
