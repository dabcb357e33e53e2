"""`webdataset`: tar files of samples, `KEY.jpg` beside `KEY.cls` and `KEY.txt` (the WebDataset layout).

What is unusual: samples are read at random, by offset, so that a step's samples depend on its number
alone; WebDataset itself streams and shuffles a buffer. It needs local, uncompressed tar files, and no
further package. Each shard's index is built once and kept in the data folder.

Axes: n samples.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from jepa_core.data.cache import Arrays, cached_arrays
from jepa_core.data.captions import FIELDS, MOST_BYTES, Captioned
from jepa_core.data.images import EXTENSIONS, MAX_PIXELS, CorruptSample, read_image, unreadable_sample
from jepa_core.data.packed_names import PackedNames
from jepa_core.data.samples import BaseSamples
from jepa_core.data.sources.npz import MOST_CLASSES, class_numbers
from jepa_core.data.sources.tar_headers import FAULTS, DamagedTar, Member, TarHeaders
from jepa_core.data.splits import ImageFileSettings, SplitSource
from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import irregularity, open_regular
from jepa_core.types.sample import Fields

Array = np.ndarray[Any, Any]

VERSION = 3
"""Of the index of a shard, as it is kept: part of the file's name."""
MAX_SHARDS = 100_000
"""Names that a pattern may stand for."""
LABEL_BYTES = 32
"""Of a .cls file that are read."""

log = logging.getLogger("jepa")


class WebDatasetSource(SplitSource):
    """Shards of tar files, read at random."""

    class Config(ImageFileSettings):
        """Settings of the shards."""

        path: str
        """Training shards: a folder, a .tar file, or a pattern (`train-{000..146}.tar`, `data/*.tar`)."""
        val_path: str | None = None
        """Validation shards, where there are any."""
        test_path: str | None = None
        """Test shards, where there are any."""
        captions: bool = False
        """Whether the caption in `KEY.txt` is the second view of each image."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        paths = {"train": config.path, "val": config.val_path, "test": config.test_path}
        self.paths = {name: path for name, path in paths.items() if path is not None}
        self.max_pixels, self.captions = config.max_pixels, config.captions

    def fields(self) -> Fields | None:
        """An image and its caption, where captions are asked for."""
        return FIELDS if self.captions else None

    def own_splits(self) -> Collection[str]:
        """Those with a path. Raises UserError where the shards of one are not there."""
        for pattern in self.paths.values():
            expand(pattern)
        return self.paths.keys()

    def load(self, name: str) -> BaseSamples:
        """Every sample of the split's shards. Raises UserError for none, or a file that is no tar."""
        files = expand(self.paths[name])
        shards = [index_of(file) for file in files]
        if not any(len(shard.start) for shard in shards):
            raise UserError(f"no images in the {len(files)} shards of {self.paths[name]!r}")
        note = f"{len(files)} shards of {self.paths[name]}"
        samples = ShardSamples(files, shards, note, self.max_pixels)
        if self.captions and not samples.text_size.any():
            raise UserError(f"no captions (KEY.txt) in the {len(files)} shards of {self.paths[name]!r}")
        return Captioned(samples, ShardTexts(samples)) if self.captions else samples


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of one tar file lie: int64 [n] each, but for the names."""

    start: Array
    """First byte."""
    size: Array
    """Bytes."""
    label: Array
    """Class, -1 for none."""
    fault: Array
    """Why it cannot be read, a key of `tar_headers.FAULTS`; 0 where nothing speaks against it."""
    text_start: Array
    """First byte of the caption."""
    text_size: Array
    """Bytes of the caption; 0 where there is none."""
    names: PackedNames
    """The key that the members of a sample share."""
    unreadable: int = 0
    """Headers of the file that are damaged, so that nobody knows what they stood for."""

    def arrays(self) -> Arrays:
        """The index as arrays by name, for the cache."""
        numbers = {name: getattr(self, name) for name in NUMBERS}
        unreadable = np.array([self.unreadable], dtype=np.int64)
        return {**numbers, "names": self.names.content, "ends": self.names.ends, "unreadable": unreadable}

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> ShardIndex:
        """The index whose `arrays` these are."""
        names = PackedNames(arrays["names"], arrays["ends"])
        numbers = {name: arrays[name] for name in NUMBERS}
        return cls(**numbers, names=names, unreadable=int(arrays["unreadable"][0]))


NUMBERS = ("start", "size", "label", "fault", "text_start", "text_size")


class ShardSamples(BaseSamples):
    """Images of several tar files, by offset; those of more than `max_pixels` pixels are corrupt."""

    def __init__(
        self, files: Sequence[Path], shards: Sequence[ShardIndex], note: str, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.files, self.note, self.max_pixels = files, note, max_pixels
        self.shard = np.repeat(np.arange(len(shards)), [len(shard.start) for shard in shards])
        self.start, self.size, self.label, self.fault, self.text_start, self.text_size = (
            np.concatenate([getattr(shard, number) for shard in shards]) for number in NUMBERS
        )
        self.names = PackedNames.concatenate(shard.names for shard in shards)
        self.classes = class_numbers(torch.from_numpy(self.label))

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: int) -> tuple[Image | Tensor, int]:
        file = self.files[self.shard[index]]
        where = f"{file}!{self.names[index]}"
        if self.fault[index]:
            raise CorruptSample(where, FAULTS[int(self.fault[index])], "damaged")
        content = read_part(file, self.start[index], self.size[index], where)
        return read_image(content, where, self.max_pixels), int(self.label[index])

    def keys(self) -> Sequence[str]:
        """`shard/key` of each sample."""
        shards = [file.name for file in self.files]
        return [f"{shards[shard]}/{name}" for shard, name in zip(self.shard, self.names, strict=True)]

    def sizes(self, positions: Sequence[int]) -> list[int]:
        """Bytes of these images in their shards."""
        return [int(self.size[position]) for position in positions]


class ShardTexts:
    """The captions of shards, read by offset."""

    def __init__(self, samples: ShardSamples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> str:
        samples = self.samples
        file = samples.files[samples.shard[index]]
        where = f"{file}!{samples.names[index]}.txt"
        if not samples.text_size[index]:
            raise CorruptSample(where, "there is no caption", "missing")
        size = min(int(samples.text_size[index]), MOST_BYTES)
        return read_part(file, samples.text_start[index], size, where).decode("utf-8", "replace").strip()


def read_part(file: Path, start: int, size: int, where: str) -> bytes:
    """So many bytes of a file. Raises CorruptSample where it cannot be read."""
    try:
        with open_regular(file) as stream:
            stream.seek(int(start))
            return stream.read(int(size))
    except OSError as error:
        raise unreadable_sample(where, error) from None


def expand(pattern: str) -> list[Path]:
    """The tar files of a folder, a file, or a pattern with `*` and `{000..146}` or `{a,b}`, sorted.

    Raises UserError for an address, a pattern of more than `MAX_SHARDS` names, where nothing matches, and
    for what is no regular file.
    """
    if "\0" in pattern:
        raise UserError(f"shards {pattern!r}: no file can have this name")
    if re.match(r"[a-z][a-z0-9+]*:", pattern) and not Path(pattern).exists():
        raise UserError(f"shards {pattern!r}: only local files can be read at random; download them first")
    names = [os.path.expanduser(name) for name in islice(braces(pattern), MAX_SHARDS + 1)]
    if len(names) > MAX_SHARDS:
        raise UserError(f"shards {pattern!r}: the braces stand for more than {MAX_SHARDS:,} files")
    names = [os.path.join(name, "*.tar") if os.path.isdir(name) else name for name in names]
    files = sorted({Path(match) for name in names for match in (glob.glob(name) or [name])})
    if not files:
        raise UserError(f"shards {pattern!r}: the braces stand for no file")
    missing = [str(file) for file in files if not os.path.exists(file)]
    if missing:
        if len(files) > 1:
            some = f"{len(missing)} of {len(files)} do not exist, such as {missing[0]!r}"
        else:
            some = f"there is no file {missing[0]!r}"
        raise UserError(f"shards {pattern!r}: {some}")
    for file in files:
        kind = irregularity(file)
        if kind is not None:
            raise UserError(f"shards {pattern!r}: {str(file)!r} is {kind}; expected a regular file")
    return files


def braces(pattern: str) -> Iterator[str]:
    """`a{000..002}` to a000, a001, a002; `{a,b}` to a and b; any number of them, one name at a time."""
    brace = re.search(r"\{(\d{1,18})\.\.(\d{1,18})\}|\{([^{}]*,[^{}]*)\}", pattern)
    if brace is None:
        yield pattern
        return
    first, last, listed = brace.groups()
    numbers = range(int(first), int(last) + 1) if listed is None else range(0)
    choices = listed.split(",") if listed is not None else (str(n).zfill(len(first)) for n in numbers)
    for choice in choices:
        yield from braces(pattern[: brace.start()] + choice + pattern[brace.end() :])


def index_of(file: Path) -> ShardIndex:
    """The shard's index; built once for this size and time of the file, and kept in the data folder."""
    status = file.stat()
    identity = os.fsencode(f"{file.resolve()}/{status.st_size}/{status.st_mtime_ns}/{VERSION}")
    name = f"shards/{hashlib.blake2b(identity, digest_size=12).hexdigest()}.npz"
    index = ShardIndex.of_arrays(cached_arrays(name, lambda: build_index(file).arrays()))
    if index.unreadable:
        log.warning("data: %s has %d damaged headers, which are left out", file, index.unreadable)
    return index


def build_index(file: Path) -> ShardIndex:
    """Reads every header of a tar file. Raises UserError for one that is compressed, cut short or no tar."""
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    texts: dict[str, Member] = {}
    try:
        with open_regular(file) as stream:
            headers = TarHeaders(stream, os.fstat(stream.fileno()).st_size)
            for member in headers:
                key, extension = _split_name(member.name)
                if extension.endswith(EXTENSIONS):
                    images.setdefault(key, member)
                elif extension == ".cls" and not member.fault:
                    stream.seek(member.start)
                    labels[key] = _label(stream.read(min(member.size, LABEL_BYTES)), member, file)
                elif extension == ".txt" and not member.fault:
                    texts[key] = member
    except DamagedTar as error:
        raise UserError(f"shard {str(file)!r} is not a whole, uncompressed tar file: {error}") from None
    except OSError as error:
        raise UserError(f"shard {str(file)!r} cannot be read: {error.strerror or error}") from None
    columns = (
        [m.start, m.size, labels.get(key, -1), m.fault, *_place(texts.get(key))] for key, m in images.items()
    )
    table = np.array(list(columns), dtype=np.int64).reshape(-1, len(NUMBERS))
    numbers = dict(zip(NUMBERS, np.ascontiguousarray(table.T), strict=True))
    return ShardIndex(**numbers, names=PackedNames.of(images), unreadable=headers.unreadable)


def _place(member: Member | None) -> tuple[int, int]:
    return (0, 0) if member is None else (member.start, member.size)


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last part of the path."""
    folder, _, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + extension).lower()


def _label(text: bytes, member: Member, file: Path) -> int:
    try:
        number = int(text)
    except ValueError:
        number = MOST_CLASSES
    if not -1 <= number < MOST_CLASSES:
        start = text[:20].decode(errors="replace")
        raise UserError(f"{file}!{member.name} holds {start!r}; expected the number of a class")
    return number
