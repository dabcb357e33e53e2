"""Many names in two arrays, which worker processes share without copying them.

All names lie one after another in one byte array, with the place where each ends. An array of strings of
one width would take the length of the longest name for every name.

Axes: n names, b bytes of all of them together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Places = np.ndarray[Any, np.dtype[np.int64]]


class PackedNames:
    """A sequence of names: `content` uint8 [b], and `ends` int64 [n], where each name ends in it.

    Names are those of files, so bytes that are no UTF-8 are kept (as surrogates, see `os.fsdecode`).
    """

    def __init__(self, content: Bytes, ends: Places) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> PackedNames:
        """The names, packed."""
        encoded = [os.fsencode(name) for name in names]
        content = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(content, np.cumsum([len(name) for name in encoded], dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Iterable[PackedNames]) -> PackedNames:
        """The names of all parts, in order; there is at least one part."""
        parts = list(parts)
        starts = np.cumsum([0, *(len(part.content) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(np.concatenate([part.content for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.content[start : int(self.ends[index])].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
