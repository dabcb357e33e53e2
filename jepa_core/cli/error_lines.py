"""Errors in a line: the user's mistakes, files and memory out of reach, faults of the program itself."""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path
from typing import Any

import typer

from jepa_core.errors import BuildError, UserError, describe_error

# Which click it is, and where it lies, depends on the version of typer; this class is public in all.
WrongUsage: type[Exception] = typer.BadParameter.__mro__[1]
"""A word that the command line does not know, or misses."""

TOO_LARGE = (
    *("calculation overflowed", "multiplication overflow"),
    *("Invalid dimensions", "maximum possible size"),
)
"""What torch and numpy say of a tensor whose size no number of bytes can hold."""

OVERFLOW = "Overflow when unpacking"
"""What torch says of a size beyond 64 bits."""


def error_line(error: Exception) -> str:
    """What to print instead of a traceback, perhaps with a hint in a second line."""
    if isinstance(error, BuildError) and isinstance(error.__cause__, Exception):
        cause = error.__cause__
        return _known_fault(cause) or f"{error}{_place(cause)}"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, WrongUsage):
        return _usage(error)
    return _known_fault(error) or _fault(error)


def _known_fault(error: Exception) -> str | None:
    """The line for an error whose reason is outside the program; None for any other."""
    return _memory(error) or _file(error) or _number(error) or _home(error)


def is_help(error: Exception) -> bool:
    """Whether a command that needs another word stood alone: its help has been printed, as for `jepa`."""
    return isinstance(error, WrongUsage) and not error.format_message()  # type: ignore[attr-defined]


def _file(error: Exception) -> str | None:
    """The line for a file that cannot be used, and for a full disk; None for any other error."""
    if not isinstance(error, OSError):
        return None
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
        return error.strerror
    return None


def _memory(error: Exception) -> str | None:
    """The line for too little memory; None for any other error.

    torch reports it in two ways: its allocator for the CPU, and torch.OutOfMemoryError.
    """
    text = describe_error(error)
    size = re.search(r"[Tt]ried to allocate ([\d.]+ \w+|\d+ bytes)", text)
    overflow = isinstance(error, RuntimeError | ValueError) and any(words in text for words in TOO_LARGE)
    if not (size or overflow or isinstance(error, MemoryError) or "can't allocate memory" in text):
        return None
    size_note = f" for another {size[1]}" if size else ""
    return (
        f"there is not enough memory{size_note}\ntry train.micro_batch, a smaller train.batch_size or a "
        "smaller encoder; encoder.checkpoint=true trades time for memory"
    )


def _number(error: Exception) -> str | None:
    """The line for a number that arithmetic cannot hold; None for any other error."""
    if not isinstance(error, OverflowError) and OVERFLOW not in str(error):
        return None
    return (
        f"a setting is too large or too small to compute with ({describe_error(error)[:60]}){_place(error)}"
    )


def _home(error: Exception) -> str | None:
    """The line for a `~` where there is no home; None for any other error."""
    if not isinstance(error, RuntimeError) or "home directory" not in str(error):
        return None
    return "a path begins with ~, but there is no home directory for it; set HOME, or write the path out"


def _usage(error: Any) -> str:
    text = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "jepa"
    return f"{text[:1].lower()}{text[1:]}\n`{command} --help` lists what it takes"


def _fault(error: Exception) -> str:
    """The line for an error that nobody foresaw: what it is and where it was raised."""
    return f"unexpected {describe_error(error)}{_place(error)}\n--debug shows the traceback"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f", raised in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
