"""Files that are either whole or as they were before: written beside their place, flushed, then renamed.

    atomic_write(folder / "eval.json", text)            text (as UTF-8) or bytes
    with atomic_path(file) as partial: save(partial)    for writers that take a path

What is unusual: the temporary file's name is drawn anew each time, so that processes that write the same
file, on one host or several, replace each other's result as a whole and never mix. The finished file has
the permissions that the umask gives, whatever the writer did (safetensors makes its files private).
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
"""The end of the name of a file, or folder, that is still being written."""


def atomic_write(file: Path | str, content: str | bytes) -> None:
    """Gives a file this content: all of it or, if the process dies or the disk is full, none of it.

    Raises OSError where the folder or the file cannot be written; the file is then what it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(file) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_path(file: Path | str) -> Iterator[Path]:
    """A path beside `file` to write to; at the end of the context it is flushed and renamed to `file`.

    The path is an empty file. After an error `file` is what it was and the partial file is removed. A link is
    followed: what it points to is replaced. A device or a pipe is not replaced but written to.
    """
    place = Path(os.path.realpath(file))
    if not _is_replaceable(place):
        yield place
        return
    partial = place.with_name(f"{place.name[:40]}.{secrets.token_hex(6)}{PARTIAL}")
    try:
        partial.touch(exist_ok=False)
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)
        flush(partial)
        os.replace(partial, place)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Returns when a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_replaceable(place: Path) -> bool:
    """Whether there is a regular file, or nothing yet; a folder fails at the rename with an OSError."""
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
