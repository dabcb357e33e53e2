"""A hash of the training split, by which a resumed run knows its data again.

    contents:…   images in memory: every pixel
    files:…      names relative to the data's root, in order, and the sizes of at most STATS of the files
    names:…      names alone, of sources that know no sizes

Labels do not count: training does not see them. Samples that have no names give "".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jepa_core.data.samples import Files, InMemory, Selection
from jepa_core.protocols import Samples

STATS = 4096
"""Files whose sizes are asked for, spread evenly: a file server may need a millisecond for each."""

ROWS = 1024
"""Images that are hashed at once."""


@runtime_checkable
class Named(Protocol):
    """Samples that have names (`jepa_core.data.samples.BaseSamples`)."""

    def keys(self) -> Sequence[str]:
        """A name for each sample."""
        ...


def data_hash(samples: Samples) -> str:
    """`KIND:HASH` of a split, the same wherever the data lie."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(samples, InMemory):
        images, _ = samples.tensors()
        digest.update(f"{tuple(images.shape)} {images.dtype}".encode())
        for rows in images.split(ROWS):
            digest.update(rows.contiguous().numpy().data)
        return f"contents:{digest.hexdigest()}"
    if not isinstance(samples, Named):
        return ""
    for name in samples.keys():  # noqa: SIM118  # not a dict
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    sizes = _file_sizes(samples)
    digest.update(" ".join(map(str, sizes or ())).encode())
    return f"{'names' if sizes is None else 'files'}:{digest.hexdigest()}"


def _file_sizes(samples: Samples) -> list[int] | None:
    """Bytes of some of the files (-1 for one that is gone), or None where the samples are no files."""
    files, positions = _files(samples)
    if files is None:
        return None
    some = positions[:: max(1, -(-len(positions) // STATS))]
    return [_size(files.path(position)) for position in some]


def _files(samples: Samples) -> tuple[Files | None, Sequence[int]]:
    """The files that the samples are or are selected from, and the positions of the selected ones."""
    if isinstance(samples, Files):
        return samples, range(len(samples))
    if isinstance(samples, Selection) and isinstance(samples.whole, Files):
        return samples.whole, [int(index) for index in samples.index]
    return None, ()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def same_data(asked: str, written: str) -> bool:
    """Whether two hashes may be of the same data; those of different kinds cannot be compared."""
    return asked.partition(":")[0] != written.partition(":")[0] or asked == written
