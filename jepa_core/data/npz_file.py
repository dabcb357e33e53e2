"""Arrays of a .npz file, of which nothing is believed: sizes are compared before memory is taken.

A .npz file is a zip archive with a member in numpy's format for each array. The archive may be encrypted,
compressed in a way that Python does not know, or damaged; a member may hold pickled objects, which are never
loaded, or claim a shape that its bytes do not have, or that no memory holds.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as numpy_format

from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import open_regular

Array = np.ndarray[Any, Any]
SHOWN = 10
"""Names of arrays that an error lists."""
NO_FORMAT = "is not in numpy's format"


class UnreadableFile(UserError):
    """A file that could not be opened or read (permissions, disk), so that its content is unknown."""


def array_names(path: Path, setting: str = "") -> list[str]:
    """Names of the arrays in a file; errors begin with the `setting` that names it (`data.path `).

    Raises UserError for what is no .npz file, UnreadableFile, and FileNotFoundError.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (UserError, FileNotFoundError):
        raise
    except OSError as error:
        raise UnreadableFile(f"{setting}{str(path)!r} cannot be read: {error.strerror or error}") from None
    except Exception:  # a damaged archive fails in any way
        hint = "; a single array becomes one by np.savez(file, images=array)" if path.suffix == ".npy" else ""
        raise UserError(f"{setting}{str(path)!r} is not a .npz file, or is damaged{hint}") from None


def list_names(names: list[str]) -> str:
    """The first names for an error, sorted; `none` where there are none."""
    listed = ", ".join(sorted(names)[:SHOWN]) or "none"
    return f"{listed}, … ({len(names):,} in all)" if len(names) > SHOWN else listed


def read_array(path: Path, name: str) -> Array:
    """One array of a file. Raises UserError for one that is not whole, or not of plain numbers."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
            with archive.open(member) as stream:
                fault = _fault(stream, member.file_size)
            if fault is None:
                with archive.open(member) as stream:
                    return numpy_format.read_array(stream, allow_pickle=False)
    except UserError:
        raise
    except MemoryError:
        fault = "there is not enough memory for it"
    except KeyError:
        fault = "it is not in the file"
    except Exception as error:  # a damaged archive fails in any way
        if isinstance(error, OSError) and error.errno:
            raise UnreadableFile(f"{str(path)!r} cannot be read: {error.strerror}") from None
        text = " ".join(str(error).split())
        fault = text or type(error).__name__
    raise UserError(f"array {name!r} of {path} {fault if fault == NO_FORMAT else f'cannot be read: {fault}'}")


def _fault(stream: IO[bytes], size: int) -> str | None:
    """Why the array of `size` bytes, header and all, cannot be read; None where nothing speaks against it."""
    try:
        version = numpy_format.read_magic(stream)
    except ValueError:
        return NO_FORMAT
    if version not in ((1, 0), (2, 0)):
        return f"version {version[0]}.{version[1]} of numpy's format; expected 1.0 or 2.0"
    first = version == (1, 0)
    read = numpy_format.read_array_header_1_0 if first else numpy_format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        return "it holds Python objects, not numbers"
    claimed, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or claimed != held:
        return f"its header says {dtype} {list(shape)}, {claimed:,} bytes; there are {held:,}"
    if claimed > (free := free_memory()):
        return f"it takes {claimed:,} bytes; {free:,} bytes of memory are free"
    return None


def free_memory() -> int:
    """Bytes of memory that can be had without swapping; all that the machine has where Linux does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
