"""The folder where fetched and converted data are kept, and arrays in it that are checked when they are read.

A file of arrays appears whole or not at all, and holds the SHA-256 of each. One that is damaged is made
again, with one line; a folder that cannot be written to costs time and stops nothing.

Axes: k arrays of a file.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jepa_core.data.npz_file import UnreadableFile, array_names, read_array
from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_path
from jepa_core.runtime.regular_file import irregularity

Arrays = dict[str, np.ndarray[Any, Any]]

HASHES = "sha256"
"""The array uint8 [k, 32] in a file of arrays: the hashes of the others, in the order of their names."""

NO_HOME = "a path begins with ~, but there is no home directory for it; set HOME, or write the path out"

log = logging.getLogger("jepa")


class DamagedCache(Exception):
    """A file in the data folder that is not what was written; says why."""


def expand_home(path: Path) -> Path:
    """`~` and `~user` replaced. Raises UserError where there is no such home folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(NO_HOME) from None


def cache_folder(path: Path | None = None) -> Path:
    """`path` where it is given, else the environment variable `JEPA_DATA`, else `~/.cache/jepa`; created.

    Raises UserError where the folder cannot be made.
    """
    chosen = path or Path(os.environ.get("JEPA_DATA") or "~/.cache/jepa")
    try:
        folder = chosen.expanduser()
        if folder.is_file():
            raise UserError(
                f"the data folder {str(folder)!r} is a file (data.path, or JEPA_DATA in its absence)"
            )
        folder.mkdir(parents=True, exist_ok=True)
    except RuntimeError:
        raise UserError(f"the data folder: {NO_HOME}, or JEPA_DATA") from None
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the data folder {str(folder)!r} cannot be made: {reason}") from None
    return folder


@contextmanager
def replaced_file(file: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file's, whole or not at all; the folder is made.

    Raises OSError; also where a pipe or a device stands there, which would be written to without end.
    """
    kind = irregularity(file) if os.path.exists(file) else None
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}", str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as partial, partial.open("wb") as stream:
        yield stream


def save_arrays(file: Path, arrays: Arrays) -> None:
    """Writes a .npz file, whole or not at all, with the hashes of its arrays. Raises OSError."""
    with replaced_file(file) as stream:
        hashes = np.stack([array_hash(arrays[name]) for name in sorted(arrays)])
        np.savez(stream, **arrays, **{HASHES: hashes})  # type: ignore[arg-type]


def load_arrays(file: Path, names: Sequence[str] = (), *, hashed: bool = True) -> Arrays:
    """Arrays that `save_arrays` wrote, all without `names`. Files of others have no hashes: `hashed=False`.

    Raises DamagedCache; FileNotFoundError where there is no file, UnreadableFile without the right to it.
    """
    try:
        held = array_names(file)
        known = sorted(name for name in held if name != HASHES)
        arrays = {name: read_array(file, name) for name in names or known}
        hashes = read_array(file, HASHES) if HASHES in held else None
    except UnreadableFile:
        raise
    except UserError as error:
        raise DamagedCache(str(error)) from None
    if hashes is None:
        if hashed:
            raise DamagedCache("it has no hashes")
        return arrays
    if hashes.shape != (len(known), 32):
        raise DamagedCache("its hashes are those of other arrays")
    for name, array in arrays.items():
        if not np.array_equal(hashes[known.index(name)], array_hash(array)):
            raise DamagedCache(f"the hash of {name!r} is another")
    return arrays


def cached_arrays(name: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of the file `name` in the data folder; where it is not there or damaged, those of `make`.

    Says in one line that a file is damaged, or that the folder cannot be written to.
    """
    try:
        file = cache_folder() / name
        return load_arrays(file)
    except FileNotFoundError:
        pass
    except DamagedCache as error:
        log.warning("%s is damaged and is made again: %s", file, error)
    except UserError as error:
        log.warning("%s; it is made again each time", error)
        return make()
    arrays = make()
    try:
        save_arrays(file, arrays)
    except OSError as error:
        log.warning("%s cannot be written, so it is made again each time: %s", file, error.strerror or error)
    return arrays


def array_hash(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """uint8 [32]: SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)
