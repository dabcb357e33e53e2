"""The members of an uncompressed tar file: names, and where their bytes lie. Contents are not read.

What is unusual: one bad header does not end the reading. A member whose size is negative or reaches beyond
the file is given with its fault, and reading goes on at the next block that is a header. `tarfile` stops
there, or never ends. Read are ustar, GNU (long names, sizes in base 256) and pax headers; sparse members are
faults.

Source: POSIX.1-2001 (ustar, pax), and the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

BLOCK = 512
REGULAR = (b"0", b"\0", b"7")
WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders, pipes: whatever their size says, no content follows."""
LONG_NAME, PAX, OLD_SPARSE = (b"L",), (b"x", b"X"), b"S"
MAX_EXTENDED = 1 << 20
"""Bytes up to which the content of an extended header (a long name, pax records) is read."""
CHUNK = 1 << 20

NEGATIVE, BEYOND, SPARSE, EXTENDED = range(1, 5)
FAULTS = {
    NEGATIVE: "its header gives no size, or a negative one",
    BEYOND: "its header gives a size that reaches beyond the file",
    SPARSE: "it is a sparse member, whose bytes do not lie in a row",
    EXTENDED: "its extended header is damaged",
}


class DamagedTar(Exception):
    """A file that is no tar file, or not a whole one."""


@dataclass(frozen=True)
class Member:
    """A regular file in a tar file: `size` bytes from `start` on. `fault`: a key of `FAULTS`, 0 for none."""

    name: str
    start: int
    size: int
    fault: int = 0


@dataclass(frozen=True)
class Extension:
    """What the extended headers before a member say of it."""

    name: str | None = None
    size: int | None = None
    fault: int = 0


class TarHeaders:
    """Iterates over the regular files of a tar file of `length` bytes; counts the `unreadable` headers.

    Raises DamagedTar for what is no tar file, and for one that is cut short.
    """

    def __init__(self, file: BinaryIO, length: int) -> None:
        self.file, self.length = file, length
        self.unreadable = 0

    def __iter__(self) -> Iterator[Member]:
        at, extension = 0, Extension()
        while (block := self._block(at)).strip(b"\0"):
            start = at + BLOCK
            if not is_header(block):
                if at == 0:
                    raise DamagedTar("it does not begin with a tar header")
                self.unreadable += 1
                at, extension = self._next_header(start), Extension()
                continue
            kind, size = block[156:157], number(block[124:136])
            if extension.size is not None and kind not in (*LONG_NAME, *PAX):
                size = extension.size
            if kind == OLD_SPARSE:
                start = self._after_sparse_map(block, start)
            fault = NEGATIVE if size is None or size < 0 else 0
            fault = BEYOND if size is not None and start + size > self.length else fault
            if kind in (*LONG_NAME, *PAX):
                extension = self._read_extension(kind, start, size or 0, fault, extension)
            else:
                if kind in (*REGULAR, OLD_SPARSE):
                    sparse = SPARSE if kind == OLD_SPARSE else 0
                    name = extension.name or name_of(block)
                    yield Member(name, start, 0 if fault else size or 0, fault or extension.fault or sparse)
                extension = Extension()
            if kind in WITHOUT_CONTENT:
                at = start
            elif fault or size is None:
                at = self._next_header(start)
            else:
                at = start + -(-size // BLOCK) * BLOCK
        self._check_end()

    def _block(self, at: int) -> bytes:
        self.file.seek(at)
        block = self.file.read(BLOCK)
        if len(block) < BLOCK:
            if not self.length:
                raise DamagedTar("empty file")
            raise DamagedTar("unexpected end of data" if block or at > self.length else CUT)
        return block

    def _check_end(self) -> None:
        """An archive ends with zeros; one block of them may be content that happens to be zero."""
        self.file.seek(self.length - BLOCK)
        if self.file.read(BLOCK).strip(b"\0"):
            raise DamagedTar(CUT)

    def _next_header(self, at: int) -> int:
        """Where the next header is, or the zeros at the end, from a block on. Raises DamagedTar."""
        while at < self.length:
            self.file.seek(at)
            chunk = self.file.read(CHUNK)
            for magic in re.finditer(b"ustar", chunk):
                begin = magic.start() - 257
                if begin >= 0 and begin % BLOCK == 0 and is_header(chunk[begin : begin + BLOCK]):
                    return at + begin
            at += CHUNK
        self._check_end()
        return self.length - BLOCK

    def _after_sparse_map(self, block: bytes, start: int) -> int:
        """Where the content of a sparse member begins: its map may go on in further blocks."""
        more = block[482]
        while more:
            more = self._block(start)[504]
            start += BLOCK
        return start

    def _read_extension(self, kind: bytes, start: int, size: int, fault: int, before: Extension) -> Extension:
        """What is known of the next member after one more extended header."""
        if fault or size > MAX_EXTENDED:
            return replace(before, fault=EXTENDED)
        self.file.seek(start)
        content = self.file.read(size)
        if kind in LONG_NAME:
            return replace(before, name=os.fsdecode(content.rstrip(b"\0").split(b"\0")[0]))
        records = pax_records(content)
        if records is None:
            return replace(before, fault=EXTENDED)
        if any(key.startswith("GNU.sparse") for key in records):
            return replace(before, fault=SPARSE)
        text = records.get("size", "")
        if text and not re.fullmatch(r"\d{1,18}", text):
            return replace(before, fault=EXTENDED)
        return replace(before, name=records.get("path", before.name), size=int(text) if text else before.size)


CUT = "it is cut short, the mark of its end is missing"


def is_header(block: bytes) -> bool:
    """Whether a block's checksum is right; it may be a sum of signed bytes, as old programs wrote."""
    written = number(block[148:156])
    others = block[:148] + b" " * 8 + block[156:]
    total = sum(others)
    return written == total or written == total - 256 * sum(byte > 127 for byte in others)


def number(field: bytes) -> int | None:
    """A number of a header: octal text, or base 256 where the first bit is set; None for neither."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=False) - (
            256 ** (len(field) - 1) if field[0] == 0xFF else 0
        )
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def name_of(block: bytes) -> str:
    """A member's name: the field of 100 bytes, after the prefix of POSIX headers."""
    name, prefix = (field.split(b"\0")[0] for field in (block[:100], block[345:500]))
    posix = block[257:263] == b"ustar\0"
    return os.fsdecode(prefix + b"/" + name if prefix and posix else name)


def pax_records(content: bytes) -> Mapping[str, str] | None:
    """The records `LENGTH KEY=VALUE\\n` of a pax header by key; None for what is none."""
    records: dict[str, str] = {}
    content = content.rstrip(b"\0")
    while content:
        length = re.match(rb"(\d{1,7}) ", content)
        if length is None or not length.end() < int(length[1]) <= len(content):
            return None
        record, content = content[length.end() : int(length[1])], content[int(length[1]) :]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            return None
        records[os.fsdecode(key)] = os.fsdecode(value[:-1])
    return records
