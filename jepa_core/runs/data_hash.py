"""A hash of the training split, by which a resumed run knows its data again.

    contents:…   images in memory: every pixel, and every value of named columns
    files:…      names relative to the data's root, in order, and the sizes of at most STATS of the files
    names:…      names alone, of sources that know no sizes

Labels do not count: training does not see them. Samples of a plugin's own class (other than
`data.samples.BaseSamples`) give "", and are compared by their number alone.
"""

from __future__ import annotations

import hashlib

from torch import Tensor

from jepa_core.data.samples import BaseSamples, ColumnSamples, InMemory
from jepa_core.protocols import Samples

STATS = 4096
"""Files whose sizes are asked for, spread evenly: a file server may need a millisecond for each."""

ROWS = 1024
"""Images that are hashed at once."""


def data_hash(samples: Samples) -> str:
    """`KIND:HASH` of a split, the same wherever the data lie."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(samples, InMemory):
        images, _ = samples.tensors()
        digest.update(f"{tuple(images.shape)} {images.dtype}".encode())
        for rows in images.split(ROWS):
            digest.update(rows.contiguous().numpy().data)
        return f"contents:{digest.hexdigest()}"
    if isinstance(samples, ColumnSamples):
        for place, column in sorted(samples.columns().items()):
            if place == "label":
                continue
            digest.update(place.encode())
            for value in column if not isinstance(column, Tensor) else column.split(ROWS):
                digest.update(
                    value.contiguous().numpy().data if isinstance(value, Tensor) else repr(value).encode()
                )
        return f"contents:{digest.hexdigest()}"
    if not isinstance(samples, BaseSamples):
        return ""
    for name in samples.keys():  # noqa: SIM118  # not a dict
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    sizes = samples.sizes(range(0, len(samples), max(1, -(-len(samples) // STATS))))
    digest.update(" ".join(map(str, sizes or ())).encode())
    return f"{'names' if sizes is None else 'files'}:{digest.hexdigest()}"


def same_data(asked: str, written: str) -> bool:
    """Whether two hashes may be of the same data; those of different kinds cannot be compared."""
    return asked.partition(":")[0] != written.partition(":")[0] or asked == written
