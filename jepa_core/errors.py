"""Error messages: one line with what came, what was expected and what is known.

`ValueError` is for the user's input, `assert` for our own invariants. The command line prints these
messages without a traceback and exits with code 2. Texts that come from outside (names of files, of members
of archives, of tensors, of plugins; messages of exceptions) pass through `printable` on their way to a
terminal.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import ClassVar

UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a terminal acts on or cannot show: control, format (bidirectional overrides),
surrogate (a byte of a file name that is not UTF-8), line and paragraph separator."""


class UserError(ValueError):
    """An input of the user's that cannot be used; the message stands on its own."""

    exit_code: ClassVar[int] = 2
    """With which the command line ends."""


class BuildError(UserError):
    """A component that cannot be built: its constructor raised what is no UserError, the `__cause__`."""


def printable(text: object, keep: str = "") -> str:
    r"""`text` with every control character written as an escape, so that it cannot steer a terminal.

    `"\x1b[31m"` becomes `r"\x1b[31m"`, a line end `r"\n"`. Characters in `keep` stay: `"\n"` for a text of
    several lines. What has no control characters is returned unchanged.
    """
    raw = str(text)
    if raw.isprintable():
        return raw
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in UNPRINTABLE and char not in keep
        else char
        for char in raw
    )


def describe_error(error: BaseException) -> str:
    """`ValueError: the message` in one printable line, whatever the exception's own `__str__` does.

    The exceptions of plugins are foreign code: their `__str__` may raise, or return no text.
    """
    kind = type(error).__name__
    try:
        message = " ".join(str(error).split())
    except BaseException as failure:  # foreign code; it must not replace the error that is being described
        return printable(f"{kind} (its message cannot be shown: {type(failure).__name__})")
    return printable(f"{kind}: {message}" if message else kind)


def suggest_name(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' when a known name is close to `name`, else ''."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name nobody registered: `unknown masker 'multiblok'; known: …. Did you mean …?`"""
    names = sorted(known)
    listed = ", ".join(names) if names else "none"
    return UserError(f"unknown {kind} {name!r}; known: {listed}.{suggest_name(name, names)}")
