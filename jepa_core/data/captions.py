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

import numpy as np

from jepa_core.data.images import CorruptSample, unreadable_sample
from jepa_core.data.samples import BaseSamples, Files
from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import open_regular
from jepa_core.types.sample import Field, Fields, Sample

FIELDS: Fields = {"views.image": Field("image"), "views.caption": Field("text")}
"""The fields of samples with captions."""
MOST_BYTES = 1 << 16
"""Bytes of a caption's file that are read."""


class Captioned(BaseSamples):
    """Images with a text each, `texts[i]`, which may be read when it is asked for.

    `names[i]` is the name of a sample in messages, by default its number. Of a list of texts the first is
    taken.
    """

    def __init__(self, images: BaseSamples, texts: Any, names: Any = None) -> None:
        self.images, self.texts, self.names = images, texts, names
        self.classes, self.note = images.classes, images.note

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        pair = self.images[index]
        assert not isinstance(pair, Sample)
        text = self.texts[int(index)]
        if isinstance(text, list | tuple):
            text = text[0] if text else ""
        if not isinstance(text, str):
            raise CorruptSample(f"sample {index} of {self.note}", f"its caption is a {type(text).__name__}")
        key = str(index) if self.names is None else self.names[int(index)]
        return Sample({"image": pair[0], "caption": text}, label=pair[1], key=key)

    def keys(self) -> Sequence[str]:
        """Those of the images: all captions of one image are held out together."""
        return self.images.keys()

    def sizes(self, positions: Sequence[int]) -> list[int] | None:
        """Those of the images."""
        return self.images.sizes(positions)


class TextFiles:
    """The texts in files beside images, of the same name but for the extension."""

    def __init__(self, images: Files, extension: str) -> None:
        self.images, self.extension = images, extension.lstrip(".")

    def __getitem__(self, index: int) -> str:
        file = Path(self.images.path(index)).with_suffix(f".{self.extension}")
        try:
            with open_regular(file) as stream:
                return stream.read(MOST_BYTES).decode("utf-8", "replace").strip()
        except OSError as error:
            raise unreadable_sample(str(file), error) from None


def with_captions(images: BaseSamples, root: Path, captions: str) -> BaseSamples:
    """Image files with their captions. Raises UserError for a table that cannot be used."""
    assert isinstance(images, Files)
    if "." not in captions.lstrip("."):
        return Captioned(images, TextFiles(images, captions), images.names)
    file = next(
        (path for path in (root / captions, root.parent / captions) if path.exists()), root / captions
    )
    numbers = {name: number for number, name in enumerate(images.names)}
    rows: list[int] = []
    texts: list[str] = []
    for line, name, text in read_table(file):
        path = _below(file.parent / name, root)
        if path in numbers:
            rows.append(numbers[path])
            texts.append(text)
        elif not (file.parent / name).exists():
            raise UserError(f"{str(file)!r}, line {line}: there is no image {name!r}")
    if not rows:
        raise UserError(f"{str(file)!r} has captions of no image in {str(root)!r}")
    chosen = images.take(np.array(rows), images.note)
    return Captioned(chosen, texts, [images.names[row] for row in rows])


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
