"""The tuning table of the Triton attention, read from `attention_tiles.json`: tiles and bounds.

A row belongs to a compute capability (9.0 and later, or 8.0), a padded head width and the bytes of a number:

    classes     for plain sequences of up to so many keys: the tiles of the forward and the backward kernel
    general     tiles of the three kernels for longer sequences, and for layouts that read other rows
    small       the same for such layouts where no list of keys is longer than SMALL
    taken_up_to `impl="auto"` takes Triton up to this many keys

A plain sequence's class is found from its own length alone. `source` in the file says where the numbers come
from; `kernels/benchmarks/gpu.sh --tune` measures them anew and writes date and times beside them. Until then
tiles are those that compile without spilling, at the most programs a processor holds
(`python -m jepa_kernels.compile_report`), and `taken_up_to` follows from a roofline: attention inside
sequences of N tokens is bound by memory up to N = 367 on an H200.

Axes: D head width; W and REST its parts as the kernels see them, each a power of two or 0.
"""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch

SMALL = 32
WIDEST = 128  # of a head
NARROWEST = 16  # of a part of a head: tensor cores take no less
FILE = Path(str(files("jepa_kernels").joinpath("attention_tiles.json")))


class Tiles(NamedTuple):
    """Launch settings of one kernel; a tile is queries x keys scores. Written "64x128 w4 s2 r128 whole".

    registers: the most that a thread may use, where it is limited
    whole: a head width that is no power of two is padded to one, and not split into two parts
    """

    queries: int
    keys: int
    warps: int
    stages: int = 1
    registers: int | None = None
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> "Tiles":
        """From its written form. Raises ValueError for another text."""
        match = re.fullmatch(r"(\d+)x(\d+) w(\d+)(?: s(\d+))?(?: r(\d+))?( whole)?", text)
        if match is None:
            raise ValueError(f"tiles are written like '64x128 w4 s2 r128 whole'; got {text!r}")
        queries, keys, warps, stages, registers, whole = match.groups()
        limit = int(registers) if registers else None
        return cls(int(queries), int(keys), int(warps), int(stages or 1), limit, whole is not None)

    def __str__(self) -> str:
        """The written form."""
        words = [f"{self.queries}x{self.keys}", f"w{self.warps}"]
        words += [f"s{self.stages}"] if self.stages > 1 else []
        words += [f"r{self.registers}"] if self.registers else []
        return " ".join([*words, "whole"] if self.whole else words)


class LengthClass(NamedTuple):
    """Plain sequences of more than `over` and up to `keys` rows: the short path's two kernels."""

    over: int
    keys: int
    forward: Tiles
    backward: Tiles


class General(NamedTuple):
    """The general path's three kernels."""

    forward: Tiles
    query_gradient: Tiles
    key_gradient: Tiles


class Row(NamedTuple):
    """Settings for one kind of input; `classes` are in order of length, empty where the short path has none.

    measured: whether `taken_up_to` was found on a GPU, beside the peers
    """

    taken_up_to: int
    measured: bool
    classes: tuple[LengthClass, ...]
    small: General
    general: General

    @property
    def short_bound(self) -> int:
        """Plain sequences up to this many keys belong to a class; 0 where there is none."""
        return self.classes[-1].keys if self.classes else 0

    @classmethod
    def parse(cls, row: dict[str, Any]) -> "Row":
        """From a row of the file. Raises ValueError for tiles that are not written as such."""
        bounds = [0, *map(int, row["classes"])]
        classes = [
            LengthClass(over, int(keys), *map(Tiles.parse, tiles))
            for over, (keys, tiles) in zip(bounds, row["classes"].items(), strict=False)
        ]
        small, general = (General(*map(Tiles.parse, row[name])) for name in ("small", "general"))
        measured = "auto" in row.get("times", {})
        return cls(row["taken_up_to"], measured, tuple(classes), small, general)


Table = dict[tuple[int, int, int], Row]  # (capability, kind of width, bytes of a number) -> Row


def read_table(text: str) -> Table:
    """The table that a file's text holds. Raises ValueError where it is not one."""
    table = {}
    for capability, rows in json.loads(text)["rows"].items():
        for words, row in rows.items():
            width, size = map(int, words.split(" x "))
            table[int(capability), width, size] = Row.parse(row)
    return table


TABLE = read_table(FILE.read_text(encoding="utf-8"))
CAPABILITIES = tuple(sorted({capability for capability, _, _ in TABLE}, reverse=True))
NEWEST = CAPABILITIES[0]


def parts(width: int, whole: bool = False) -> tuple[int, int]:
    """(W, REST) for heads of `width`: two powers of two where their sum is less than the next one."""
    power = _power(width)
    first = max(NARROWEST, power // 2)
    rest = _power(width - first) if width > first else 0
    return (first, rest) if rest and not whole and first + rest < power else (power, 0)


def _power(width: int) -> int:
    return max(NARROWEST, 1 << (width - 1).bit_length())


def kind(width: int, size: int) -> int:
    """The padded head width by which rows are found; numbers of four bytes are never split."""
    return sum(parts(width, whole=size == 4))


def row_for(width: int, dtype: torch.dtype, capability: int = NEWEST) -> Row:
    """The row for heads of `width` <= WIDEST on a card of `capability` (10 * major + minor)."""
    nearest = next((card for card in CAPABILITIES if card <= capability), CAPABILITIES[-1])
    return TABLE[nearest, kind(width, dtype.itemsize), dtype.itemsize]


_BOUNDS = {
    (width, size): (row.short_bound, row.taken_up_to, row.measured)
    for (capability, width, size), row in TABLE.items()
    if capability == NEWEST
}


def short_bound(width: int, dtype: torch.dtype) -> int:
    """Plain sequences up to this many keys take the short path, on every card: graphs guard on it."""
    return _BOUNDS[kind(width, dtype.itemsize), dtype.itemsize][0]


def auto_bound(width: int, dtype: torch.dtype) -> int:
    """`impl="auto"` takes Triton up to this many keys."""
    return _BOUNDS[kind(width, dtype.itemsize), dtype.itemsize][1]


def bound_is_measured(width: int, dtype: torch.dtype) -> bool:
    """Whether `taken_up_to` was found on a GPU."""
    return _BOUNDS[kind(width, dtype.itemsize), dtype.itemsize][2]
