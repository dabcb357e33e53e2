"""Files that users name are regular files: a pipe, a socket or a device is refused before it is opened.

Opening a pipe waits for a writer, reading a device may never end, and both look like a hang to the user.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from jepa_core.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def irregularity(path: Path | str) -> str | None:
    """What stands at `path` where it is no regular file: `a folder`, `a pipe`, …; None for a regular file.

    Links are followed. Raises OSError where nothing is there or it cannot be looked at, and for a name that
    the file system cannot have (one with a NUL, say).
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(None, f"not a file's name ({error})", str(path)) from None
    if stat.S_ISREG(mode):
        return None
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "no regular file")


def open_regular(path: Path | str) -> BinaryIO:
    """A regular file, open for reading bytes.

    Raises UserError for a folder, a pipe, a socket or a device, and OSError where it cannot be opened.
    """
    kind = irregularity(path)
    if kind is not None:
        raise UserError(f"{str(path)!r} is {kind}; expected a regular file")
    return open(path, "rb")  # the caller closes it
