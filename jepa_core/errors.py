"""How the project says no: one line with what came, what was expected and what is known.

`ValueError` is for the user's input, `assert` for our own invariants. The command line prints these
messages without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """An input of the user's that cannot be used; the message stands on its own."""

    exit_code: ClassVar[int] = 2
    """With which the command line ends."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' when a known name is close to `name`, else ''."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name nobody registered: `unknown masker 'multiblok'; known: …. Did you mean …?`"""
    names = sorted(known)
    listed = ", ".join(names) if names else "none"
    return UserError(f"unknown {kind} {name!r}; known: {listed}.{nearest(name, names)}")
