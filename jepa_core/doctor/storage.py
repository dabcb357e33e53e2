"""Where data and runs are kept: the data folder and its content, and the space where runs go."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from jepa_core.doctor.check import Check, State
from jepa_core.errors import printable
from jepa_core.runtime.environment import GIB

SCARCE, LITTLE = 1 * GIB, 10 * GIB
"""Free bytes under which a run will fail, and under which a long one may."""

SHOWN = 8
"""Entries of the data folder that are named."""

CIFAR10 = {"train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"}


def data() -> Iterator[Check]:
    """The data folder, and CIFAR-10, which the demo needs. Nothing is created or downloaded."""
    chosen = os.environ.get("JEPA_DATA")
    folder = Path(chosen or "~/.cache/jepa").expanduser()
    where = f"{folder} ({'JEPA_DATA' if chosen else 'the default; JEPA_DATA names another'})"
    yield _folder(folder, where)
    yield _cifar10(folder)


def disk() -> Iterator[Check]:
    """Free space, and permission to write, in the working folder, where runs go without `--run`."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    text = f"{free / GIB:,.1f} GiB free in {here}"
    advice = "give --run a folder on a larger disk; a checkpoint of a ViT-S is 0.3 GB, of a ViT-H 9 GB"
    state: State = "problem" if free < SCARCE else "warning" if free < LITTLE else "ok"
    yield Check("disk", "space", state, text, advice if state != "ok" else "", {"free_bytes": free})
    if not os.access(here, os.W_OK):
        text = f"{here} is not writable"
        yield Check("disk", "folder", "warning", text, "go to another folder, or give --run one")


def _folder(folder: Path, where: str) -> Check:
    if not folder.exists():
        above = next(parent for parent in folder.parents if parent.exists())
        if not os.access(above, os.W_OK):
            return Check(
                "data",
                "folder",
                "problem",
                f"{where} is not there and cannot be made",
                "point JEPA_DATA at a folder you may write to",
            )
        return Check("data", "folder", "ok", f"{where} is not there yet; the first fetch makes it")
    if not folder.is_dir():
        return Check("data", "folder", "problem", f"{where} is a file", "point JEPA_DATA at a folder")
    entries = sorted(folder.iterdir())
    text = f"{where} holds {_list(entries)}"
    details = {"folder": str(folder), "entries": [entry.name for entry in entries]}
    if not os.access(folder, os.W_OK):
        advice = "nothing can be fetched into it; what is there can be used"
        return Check("data", "folder", "warning", f"{text}; it is not writable", advice, details)
    return Check("data", "folder", "ok", text, details=details)


def _list(entries: list[Path]) -> str:
    texts = [_describe(entry) for entry in entries[:SHOWN]]
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return ", ".join(texts) + more if texts else "nothing yet"


def _describe(entry: Path) -> str:
    """Name and size; a link that leads nowhere has none."""
    name = printable(entry.name)
    if entry.is_dir():
        return f"{name}/"
    return f"{name} ({_size(entry.stat().st_size)})" if entry.exists() else name


def _cifar10(folder: Path) -> Check:
    file = folder / "cifar10.npz"
    if not file.is_file():
        text = "not there yet; the first `jepa train ijepa/demo` fetches it (139 MB)"
        return Check("data", "CIFAR-10", "ok", text, details={"there": False})
    try:
        with zipfile.ZipFile(file) as arrays:
            missing = CIFAR10 - set(arrays.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        return Check("data", "CIFAR-10", "problem", f"{file}: {error}", "delete it, and it is made anew")
    if missing:
        text = f"{file} has no {', '.join(sorted(missing))}"
        return Check("data", "CIFAR-10", "problem", text, "delete it, and it is made anew")
    text = f"{file}, {_size(file.stat().st_size)}"
    return Check("data", "CIFAR-10", "ok", text, details={"there": True})


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.0f} {unit}" if count >= 10 * scale else f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
