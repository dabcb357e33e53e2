"""TOML from files and from the command line, read within bounds: no hang, no traceback, whatever is there.

What is unusual: Python's own parser needs quadratic memory for long dotted keys and recursion for nested
brackets, so both are bounded before, and a file is opened only where it is a regular file of a sane size.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError

MAX_BYTES = 1_000_000
"""Bytes of a recipe's file; those of people have a few thousand."""
MAX_DEPTH = 32
"""Tables and lists inside one another."""

_KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"""(?<![\w"'-]){_KEY}(?:[ \t]*\.[ \t]*{_KEY}){{{MAX_DEPTH},}}""")


class TooDeep(ValueError):
    """Tables or lists inside one another beyond `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"its tables or lists stand more than {MAX_DEPTH} deep in one another")


def read_file(path: Path) -> dict[str, Any]:
    """The table in a recipe's file. Raises UserError for a file that is no TOML, or cannot be read."""
    try:
        return parse(_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"recipe {path} is not a text in UTF-8, as TOML is") from None
    except TooDeep as error:
        raise UserError(f"recipe {path} cannot be used: {error}") from None
    except UserError:
        raise
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {path} is not valid TOML: {error}") from None
    except ValueError:  # Python's own, for a whole number of more digits than it converts
        raise UserError(f"recipe {path} is not valid TOML: a number in it has thousands of digits") from None
    except OSError as error:
        raise UserError(f"recipe {path} cannot be read: {error.strerror}") from None


def check_is_file(text: str) -> None:
    """Raises UserError unless there is a regular file at `text`, without opening it."""
    try:
        mode = os.stat(text).st_mode
    except FileNotFoundError:
        if os.path.islink(text):
            raise UserError(f"recipe file {text!r} is a link to a file that does not exist") from None
        raise UserError(f"recipe file {text!r} does not exist") from None
    except (NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise UserError(f"recipe file {text!r} does not exist") from None
    except OSError as error:
        raise UserError(f"recipe {text} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"recipe {text!r} is a folder; expected a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"recipe {text!r} is a pipe, a socket or a device; expected a file")


def parse(text: str) -> dict[str, Any]:
    """A TOML document. Raises TooDeep, and the ValueError of a document that is none."""
    if _LONG_KEY.search(text):
        raise TooDeep
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise TooDeep from None
    check_depth(table)
    return table


def check_depth(value: Any) -> None:
    """Raises TooDeep for tables and lists more than `MAX_DEPTH` inside one another; recurses nowhere.

    One that holds itself, as a file of torch.save may have it, is too deep; each is looked into once a level.
    """
    level = [value] if isinstance(value, Mapping | list) else []
    for _ in range(MAX_DEPTH):
        inside = {
            id(inner): inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list)
        }
        level = list(inside.values())
        if not level:
            return
    raise TooDeep


def _bytes(path: Path) -> bytes:
    """A regular file's content. Raises UserError for one that is none, or too long for a recipe."""
    check_is_file(str(path))
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"recipe {path} is longer than {MAX_BYTES:,} bytes; that is no recipe")
    return content
