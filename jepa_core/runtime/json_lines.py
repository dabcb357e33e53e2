"""Reading files of one JSON object a line (JSONL), whatever is in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import open_regular


@dataclass(frozen=True)
class JsonLine:
    """One line: its number from 1, its text, and the object in it; `value` is None where there is none."""

    number: int
    text: str
    value: dict[str, Any] | None
    last: bool
    """Whether it is the file's last line and has no end: its writing may have been cut off."""


def read_json_lines(file: Path) -> list[JsonLine]:
    """The lines of a file that are not blank; none where there is no file.

    Bytes that are not UTF-8 are replaced. NaN and infinity, which are not JSON, are read as null.
    Raises UserError for a file that cannot be read, or is a folder, a pipe or a device.
    """
    texts = read_text_file(file).split("\n")
    return [
        JsonLine(number, text, _object(text), number == len(texts))
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]


def read_text_file(file: Path) -> str:
    """A file's text, bytes that are not UTF-8 replaced; "" where there is no file.

    Raises UserError as `read_json_lines` does.
    """
    try:
        with open_regular(file) as stream:
            return stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):  # ValueError also for an integer of more than 4,300 digits
        return None
    return value if isinstance(value, dict) else None


def is_count(value: Any) -> bool:
    """Whether a value read from a file is a whole number from 0 that 64 bits hold, such as a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
