"""The folder where fetched and converted data are kept, and files that appear there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from jepa_core.errors import UserError

Arrays = dict[str, np.ndarray[Any, Any]]


def cache_folder(path: Path | None = None) -> Path:
    """`path` where it is given, else the environment variable `JEPA_DATA`, else `~/.cache/jepa`; created.

    Raises UserError where the folder cannot be made.
    """
    folder = (path or Path(os.environ.get("JEPA_DATA") or "~/.cache/jepa")).expanduser()
    if folder.is_file():
        raise UserError(f"the data folder {str(folder)!r} is a file (data.path, or JEPA_DATA in its absence)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the data folder {str(folder)!r} cannot be made: {error.strerror}") from None
    return folder


def save_arrays(file: Path, arrays: Arrays) -> None:
    """Writes a .npz next to `file` and renames it, so that no reader ever sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
