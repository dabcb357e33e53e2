"""Captions of images, in files beside them or in one table, as a second view of each sample.

    photos/cat.jpg, photos/cat.txt                    captions = "txt"
    photos/captions.jsonl: {"file": …, "caption": …}   captions = "captions.jsonl" (or .csv, .tsv with a head)

Paths are relative to the table. A table may name an image several times; it then has several captions, each a
sample of its own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jepa_core.data.images import CorruptSample, unreadable_sample
from jepa_core.data.samples import BaseSamples, Files
from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import open_regular
from jepa_core.types.sample import Field, Fields, Sample

FIELDS: Fields = {"views.image": Field("image"), "views.caption": Field("text")}
"""The fields of samples with captions."""
MOST_BYTES = 1 << 16
"""Bytes of a caption's file that are read."""


class CaptionFiles(BaseSamples):
    """Images with a text file of the same name, but for its extension, beside each."""

    def __init__(self, images: Files, extension: str) -> None:
        self.images, self.extension = images, extension.lstrip(".")
        self.classes, self.note = images.classes, images.note

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, label = _pair(self.images, index)
        file = Path(self.images.path(index)).with_suffix(f".{self.extension}")
        try:
            with open_regular(file) as stream:
                text = stream.read(MOST_BYTES).decode("utf-8", "replace").strip()
        except OSError as error:
            raise unreadable_sample(str(file), error) from None
        return Sample({"image": image, "caption": text}, label=label, key=self.images.names[index])

    def keys(self) -> Sequence[str]:
        """Those of the images."""
        return self.images.keys()

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Those of the images."""
        return self.images.sizes(positions)


class CaptionTable(BaseSamples):
    """Images with captions from a table; several for one image are several samples."""

    def __init__(self, images: Files, rows: Sequence[tuple[int, str]]) -> None:
        self.images, self.rows = images, rows
        self.classes, self.note = images.classes, images.note

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        number, text = self.rows[index]
        image, label = _pair(self.images, number)
        return Sample({"image": image, "caption": text}, label=label, key=self.images.names[number])

    def keys(self) -> Sequence[str]:
        """The images' names: all captions of one image are held out together."""
        names = self.images.names
        return [names[number] for number, _ in self.rows]

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Those of the images."""
        return self.images.sizes([self.rows[position][0] for position in positions])


def with_captions(images: BaseSamples, root: Path, captions: str) -> BaseSamples:
    """Image files with their captions. Raises UserError for a table that cannot be used."""
    assert isinstance(images, Files)
    if "." not in captions.lstrip("."):
        return CaptionFiles(images, captions)
    file = next(
        (path for path in (root / captions, root.parent / captions) if path.exists()), root / captions
    )
    numbers = {name: number for number, name in enumerate(images.names)}
    rows = []
    for line, name, text in read_table(file):
        path = _below(file.parent / name, root)
        if path in numbers:
            rows.append((numbers[path], text))
        elif not (file.parent / name).exists():
            raise UserError(f"{str(file)!r}, line {line}: there is no image {name!r}")
    if not rows:
        raise UserError(f"{str(file)!r} has captions of no image in {str(root)!r}")
    return CaptionTable(images, rows)


def _below(path: Path, root: Path) -> str:
    try:
        return str(path.resolve().relative_to(root.resolve()))
    except ValueError:
        return ""


def read_table(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, file, caption) of each row of a .jsonl, .csv or .tsv file.

    Raises UserError, naming the line, for a row without the two.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UserError(f"the captions {str(file)!r} cannot be read: {reason}") from None
    lines = text.splitlines()
    rows: Iterator[Any]
    if file.suffix == ".jsonl":
        rows = (_parse(line) for line in lines)
        first = 1
    elif file.suffix in (".csv", ".tsv"):
        rows = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
        first = 2
    else:
        raise UserError(
            f'captions {file.name!r}: expected an extension of files beside the images, such as "txt", or a '
            ".jsonl, .csv or .tsv table"
        )
    for number, row in enumerate(rows, first):
        name, caption = (row.get(key) if isinstance(row, dict) else None for key in ("file", "caption"))
        if not isinstance(name, str) or not isinstance(caption, str) or not caption.strip():
            raise UserError(
                f"{str(file)!r}, line {number}: expected a file and a caption; got {str(row)[:80]}"
            )
        yield number, name, caption


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _pair(images: BaseSamples, index: int) -> tuple[Any, int]:
    """The image of samples without captions, and its label."""
    pair = images[index]
    assert not isinstance(pair, Sample)
    return pair


class TextColumn(BaseSamples):
    """Samples whose caption another function reads by their position, such as a column of a table."""

    def __init__(self, images: BaseSamples, texts: Any) -> None:
        self.images, self.texts = images, texts
        self.classes, self.note = images.classes, images.note

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image, label = _pair(self.images, index)
        text = self.texts[int(index)]
        if isinstance(text, list | tuple):
            text = text[0] if text else ""
        if not isinstance(text, str):
            raise CorruptSample(f"sample {index} of {self.note}", f"its caption is a {type(text).__name__}")
        return Sample({"image": image, "caption": text}, label=label, key=str(index))

    def keys(self) -> Sequence[str]:
        """Those of the images."""
        return self.images.keys()

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Those of the images."""
        return self.images.sizes(positions)
