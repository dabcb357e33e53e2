"""What the user got wrong, in a line: settings, data, words of the command, files or memory out of reach."""

from __future__ import annotations

import errno
import re
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
    if isinstance(error, MemoryError | RuntimeError):
        return _memory(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename:
            return error.strerror
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else None
    return _usage(error)


def _memory(error: Exception) -> str | None:
    """torch says it in two ways: its allocator for the CPU, and torch.OutOfMemoryError."""
    said = str(error)
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+|\d+ bytes)", said)
    if not wanted and not isinstance(error, MemoryError) and "can't allocate memory" not in said:
        return None
    size = f" for another {wanted[1]}" if wanted else ""
    return (
        f"there is not enough memory{size}\ntry train.micro_batch, a smaller train.batch_size or a smaller "
        "encoder; encoder.checkpoint=true trades time for memory"
    )


def _usage(error: Any) -> str:
    said = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "jepa"
    return f"{said[:1].lower()}{said[1:]}\n`{command} --help` lists what it takes"
