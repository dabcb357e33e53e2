"""Rendered scenes in the data folder: shards of pictures, each written whole, by several processes.

    scenes/v1-64px-1a2b3c4d/train/000000-000200.npz     uint8 images, float16 depth, uint8 ids and shapes, …

What is unusual: the folder's name holds the renderer's version and a hash of the settings, and so does every
shard, so that pictures of another version or of other settings are never taken for these. A process that is
killed leaves whole shards only; the next one renders those that are missing.

Axes: n pictures of a split, S pixels a side.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jepa_core.data.cache import Arrays, DamagedCache, load_arrays, save_arrays
from jepa_core.errors import UserError
from jepa_scenes.rendering import VERSION, Rendering, render_number

IN_A_SHARD = 200
"""Pictures: about five seconds of a core at 64 pixels a side."""
FIRST = {"train": 0, "val": 1_000_000, "test": 2_000_000}
"""Number of each split's first picture."""
MADE_BY = "made_by"

log = logging.getLogger("jepa.scenes")


@dataclass(frozen=True)
class Look:
    """What a picture depends on besides its number."""

    size: int
    """Pixels a side."""
    field: float
    """Field of view in degrees."""
    seed: int

    @property
    def key(self) -> str:
        """Version, size, and a hash of all."""
        facts = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return f"v{VERSION}-{self.size}px-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Shard:
    """A file of the pictures `first` to `last` - 1."""

    file: Path
    first: int
    last: int


def shards_of(folder: Path, look: Look, split: str, total: int) -> list[Shard]:
    """The shards of a split of so many pictures."""
    start, parts = FIRST[split], range(0, total, IN_A_SHARD)
    spans = [(first, min(first + IN_A_SHARD, total)) for first in parts]
    return [
        Shard(folder / look.key / split / f"{first:06d}-{last:06d}.npz", start + first, start + last)
        for first, last in spans
    ]


def render_shard(look: Look, shard: Shard, done: Callable[[], None] = lambda: None) -> None:
    """Renders and writes a shard, and calls `done` after each picture. Raises UserError where that fails."""
    pictures = []
    for number in range(shard.first, shard.last):
        pictures.append(render_number(number, look.seed, look.size, look.field))
        done()
    try:
        save_arrays(shard.file, pack(pictures, look))
    except OSError as error:
        raise UserError(
            f"scenes cannot be written to {shard.file.parent}: {error.strerror or error}; "
            "set data.path or JEPA_DATA"
        ) from None


def pack(pictures: Sequence[Rendering], look: Look) -> Arrays:
    """The arrays of a shard."""
    return {
        "images": np.stack([picture.image for picture in pictures]),
        "depth": np.stack([picture.depth for picture in pictures]).astype(np.float16),
        "ids": np.stack([picture.ids for picture in pictures]),
        "shapes": np.stack([picture.shapes for picture in pictures]),
        "count": np.array([picture.count for picture in pictures], dtype=np.uint8),
        "distance": np.array([picture.distance for picture in pictures]),
        MADE_BY: np.frombuffer(look.key.encode(), dtype=np.uint8),
    }


def read_shards(shards: Sequence[Shard], look: Look, names: Sequence[str]) -> Iterator[Arrays | Shard]:
    """The named arrays of each shard; the shard itself where it has to be rendered (again)."""
    for shard in shards:
        try:
            yield _read_shard(shard, look, names)
        except FileNotFoundError:
            yield shard
        except DamagedCache as error:
            log.warning("%s is not used, and its scenes are rendered again: %s", shard.file, error)
            yield shard


def _read_shard(shard: Shard, look: Look, names: Sequence[str]) -> Arrays:
    """Raises DamagedCache for a shard that is damaged, or that another version or other settings made."""
    arrays = load_arrays(shard.file, (*names, MADE_BY))
    maker = arrays.pop(MADE_BY).tobytes().decode("ascii", errors="replace")
    if maker != look.key:
        raise DamagedCache(f"it was made by {maker}, and this is {look.key}")
    count = shard.last - shard.first
    if any(len(array) != count for array in arrays.values()):
        raise DamagedCache(f"it does not hold {count} scenes")
    return arrays


def say_what_is_old(folder: Path, look: Look) -> None:
    """Logs a line where the folder holds scenes of other versions of the renderer."""
    known = sorted(path.name for path in folder.glob("v*-*px-*") if path.is_dir())
    old = [name for name in known if name.partition("-")[0] != f"v{VERSION}"]
    if old:
        log.info(
            "scenes of another version in %s are not used and may be deleted: %s; this is %s",
            folder,
            ", ".join(old),
            look.key,
        )
