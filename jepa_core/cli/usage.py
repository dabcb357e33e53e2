"""What the user got wrong, in a line: settings and data, the words of the command, files out of reach."""

from __future__ import annotations

import errno
from typing import Any

import typer

from jepa_core.errors import UserError

# Which click it is, and where it lies, depends on the version of typer; this class is public in all.
WrongUsage: type[Exception] = typer.BadParameter.__mro__[1]
"""A word that the command line does not know, or misses."""


def in_a_line(error: Exception) -> str | None:
    """What to say instead of a traceback, perhaps with a hint in a second line; None where that is wrong.

    An OSError that names no file is none of the user's, but for a full disk.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename:
            return error.strerror
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else None
    return _usage(error)


def _usage(error: Any) -> str:
    said = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "jepa"
    return f"{said[:1].lower()}{said[1:]}\n`{command} --help` lists what it takes"
