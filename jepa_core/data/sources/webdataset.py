"""`webdataset`: tar files of samples, `KEY.jpg` beside `KEY.cls` (the WebDataset layout).

What is unusual: samples are read at random, by offset, so that a step's samples depend on its number
alone; WebDataset itself streams and shuffles a buffer. It needs local, uncompressed tar files, and no
further package. Each shard's index is built once and kept in the data folder.

Axes: n samples.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from jepa_core.data.cache import cache_folder, save_arrays
from jepa_core.data.images import EXTENSIONS, read_image
from jepa_core.data.samples import BaseSamples
from jepa_core.data.sources.npz import MOST_CLASSES, numbered
from jepa_core.data.splits import HeldOutSettings, SplitSource
from jepa_core.errors import UserError

Array = np.ndarray[Any, Any]


class WebDatasetSource(SplitSource):
    """Shards of tar files, read at random."""

    class Config(HeldOutSettings):
        """Settings of the shards."""

        path: str
        """Training shards: a folder, a .tar file, or a pattern (`train-{000..146}.tar`, `data/*.tar`)."""
        val_path: str | None = None
        """Validation shards, where there are any."""
        test_path: str | None = None
        """Test shards, where there are any."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        paths = {"train": config.path, "val": config.val_path, "test": config.test_path}
        self.paths = {name: path for name, path in paths.items() if path is not None}

    def own_splits(self) -> Collection[str]:
        """Those with a path. Raises UserError where the shards of one are not there."""
        for pattern in self.paths.values():
            expand(pattern)
        return self.paths.keys()

    def load(self, name: str) -> ShardSamples:
        """Every sample of the split's shards. Raises UserError for none, or a file that is no tar."""
        files = expand(self.paths[name])
        shards = [index_of(file) for file in files]
        if not any(len(shard.start) for shard in shards):
            raise UserError(f"no images in the {len(files)} shards of {self.paths[name]!r}")
        return ShardSamples(files, shards, f"{len(files)} shards of {self.paths[name]}")


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of one tar file lie: first byte [n], bytes [n], class [n] (-1: none), key [n]."""

    start: Array
    size: Array
    label: Array
    key: Array


class ShardSamples(BaseSamples):
    """Images of several tar files, by offset."""

    def __init__(self, files: Sequence[Path], shards: Sequence[ShardIndex], note: str) -> None:
        self.files, self.note = files, note
        self.shard = np.repeat(np.arange(len(shards)), [len(shard.start) for shard in shards])
        self.start, self.size, self.label, self.key = (
            np.concatenate([getattr(shard, field) for shard in shards])
            for field in ("start", "size", "label", "key")
        )
        self.classes = numbered(torch.from_numpy(self.label))

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: int) -> tuple[Image | Tensor, int]:
        file = self.files[self.shard[index]]
        with file.open("rb") as stream:
            stream.seek(int(self.start[index]))
            content = stream.read(int(self.size[index]))
        return read_image(content, f"{file}!{os.fsdecode(self.key[index])}"), int(self.label[index])

    def keys(self) -> Sequence[str]:
        """`shard/key` of each sample."""
        names = [file.name for file in self.files]
        return [f"{names[shard]}/{os.fsdecode(key)}" for shard, key in zip(self.shard, self.key, strict=True)]


def expand(pattern: str) -> list[Path]:
    """The tar files of a folder, a file, or a pattern with `*` and `{000..146}` or `{a,b}`, sorted.

    Raises UserError for an address, and where nothing matches.
    """
    if re.match(r"[a-z][a-z0-9+]*:", pattern) and not Path(pattern).exists():
        raise UserError(f"shards {pattern!r}: only local files can be read at random; download them first")
    names = [os.path.expanduser(name) for name in braces(pattern)]
    names = [os.path.join(name, "*.tar") if os.path.isdir(name) else name for name in names]
    files = sorted({Path(found) for name in names for found in (glob.glob(name) or [name])})
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        if len(files) > 1:
            some = f"{len(missing)} of {len(files)} do not exist, such as {missing[0]!r}"
        else:
            some = f"there is no file {missing[0]!r}"
        raise UserError(f"shards {pattern!r}: {some}")
    return files


def braces(pattern: str) -> Iterator[str]:
    """`a{000..002}` to a000, a001, a002; `{a,b}` to a and b; any number of them."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, listed = found.groups()
    if listed is not None:
        choices = listed.split(",")
    else:
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    for choice in choices:
        yield from braces(pattern[: found.start()] + choice + pattern[found.end() :])


def index_of(file: Path) -> ShardIndex:
    """The shard's index; built once for this size and time of the file, and kept in the data folder."""
    status = file.stat()
    named = f"{file.resolve()}/{status.st_size}/{status.st_mtime_ns}".encode()
    kept = cache_folder() / "shards" / f"{hashlib.blake2b(named, digest_size=12).hexdigest()}.npz"
    if not kept.is_file():
        save_arrays(kept, vars(build_index(file)))
    with np.load(kept, allow_pickle=False) as arrays:
        return ShardIndex(**arrays)


def build_index(file: Path) -> ShardIndex:
    """Reads every header of a tar file. Raises UserError for one that is compressed, cut short or no tar."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                key, extension = _split_name(member.name)
                if not member.isfile():
                    continue
                if extension.endswith(EXTENSIONS):
                    images.setdefault(key, (member.offset_data, member.size))
                elif extension == ".cls":
                    labels[key] = _label(archive, member, file)
        _check_end(file)
    except tarfile.TarError as error:
        raise UserError(f"shard {str(file)!r} is not a whole, uncompressed tar file: {error}") from None
    return ShardIndex(
        start=np.array([start for start, _ in images.values()], dtype=np.int64),
        size=np.array([size for _, size in images.values()], dtype=np.int64),
        label=np.array([labels.get(key, -1) for key in images], dtype=np.int64),
        key=np.array([os.fsencode(key) for key in images], dtype=np.bytes_),
    )


def _check_end(file: Path) -> None:
    """Raises TarError for a file without the zeros that end an archive: tarfile takes it for a whole one."""
    with file.open("rb") as stream:
        stream.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
        if stream.read().strip(tarfile.NUL):
            raise tarfile.ReadError("it is cut short, the mark of its end is missing")


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last part of the path."""
    folder, _, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + extension).lower()


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> int:
    stream = archive.extractfile(member)
    text = stream.read() if stream else b""
    try:
        number = int(text)
    except ValueError:
        number = MOST_CLASSES
    if not -1 <= number < MOST_CLASSES:
        said = text[:20].decode(errors="replace")
        raise UserError(f"{file}!{member.name} holds {said!r}; expected the number of a class")
    return number
