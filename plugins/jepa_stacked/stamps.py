"""Pictures of things with a sentence and a voice that says it: Tux Paint's stamps, out of a Debian package.

    tuxpaint-stamps-default 2022.06.04-1 (GPL-2, 161 MB), fetched at first use by apt-get or from Debian's
    mirror; what one language has is kept in the data folder (4 to 30 MB)

What is unusual: nothing is installed. A Debian package is an `ar` archive with a tar archive in it, which
Python reads; sounds are decoded with PyAV (the extra `video`). 785 pictures have a sentence; of those the
voice says 767 in French, 538 to 760 in seven other languages, and 65 in English.

Axes: n stamps, S samples of all sounds.
"""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jepa_core import UserError
from jepa_core.data.cache import Arrays, cached_arrays
from jepa_core.data.images import open_image
from jepa_core.data.sources.package_download import Unreachable, apt_download, check_hash

log = logging.getLogger("jepa.stacked")

PACKAGE = "tuxpaint-stamps-default=2022.06.04-1"
URL = "https://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
FOLDER = "usr/share/tuxpaint/stamps"
LANGUAGES = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "lt", "nl", "ro", "ru")
"""In which the package has voices."""
SIDE, RATE, SECONDS = 32, 8000, 3
"""Pixels of a picture as it is kept; samples a second of a voice, and the longest that is kept."""
VERSION = 1
"""Of the arrays as they are kept."""


@dataclass(frozen=True)
class Stamps:
    """`pictures` uint8 [n, 4, 32, 32], red, green, blue and opacity; sentences; sounds float32 [samples]."""

    pictures: Tensor
    sentences: list[str]
    sounds: list[Tensor]


def read_stamps(language: str) -> Stamps:
    """The stamps that have a sentence and a voice in a language.

    Raises UserError where the package cannot be fetched, and without PyAV.
    """
    arrays = cached_arrays(f"stamps-{language}-{VERSION}.npz", lambda: fetch_stamps(language))
    sounds = torch.from_numpy(arrays["sounds"]).float() / 32768
    return Stamps(
        torch.from_numpy(arrays["pictures"]),
        [str(sentence) for sentence in arrays["sentences"]],
        list(sounds.split(arrays["lengths"].tolist())),
    )


def fetch_stamps(language: str) -> Arrays:
    """`pictures` uint8 [n, 4, 32, 32], `sentences`, `sounds` int16 [S], one after the other, `lengths` [n].

    Raises UserError as `read_stamps`.
    """
    av = _av()
    voice = "_desc.ogg" if language == "en" else f"_desc_{language}.ogg"
    with tempfile.TemporaryDirectory() as scratch:
        package = download(Path(scratch))
        log.info("reading the stamps of %s that have a voice in %r", package.name, language)
        with package.open("rb") as stream:
            parts = read_members(stream, ("png", "txt", voice))
    whole = [
        (make_picture(held["png"]), sentence, decode_sound(av, held[voice]))
        for _, held in sorted(parts.items())
        if {"png", "txt", voice} <= held.keys() and (sentence := find_sentence(held["txt"], language))
    ]
    pictures, sentences, sounds = zip(*whole, strict=True)
    return {
        "pictures": np.stack(pictures),
        "sentences": np.array(sentences),
        "sounds": np.concatenate(sounds),
        "lengths": np.array([len(sound) for sound in sounds]),
    }


def download(scratch: Path) -> Path:
    """The package, in the empty folder `scratch`: by apt-get where there is one, or from Debian's mirror.

    Raises UserError, which says why, where neither gives it.
    """
    log.info("fetching %s (GPL-2, 161 MB)", PACKAGE)
    reasons = []
    for fetch in (lambda: apt_download(PACKAGE, scratch), lambda: _from_mirror(scratch)):
        try:
            file = fetch()
            check_hash(file, "sha256", SHA256)
            return file
        except Unreachable as error:
            reasons.append(str(error))
    raise UserError(f"the stamps cannot be fetched: {'; '.join(reasons)}")


def _from_mirror(scratch: Path) -> Path:
    file = scratch / "stamps.deb"
    try:
        with urllib.request.urlopen(URL, timeout=60) as response, file.open("wb") as stream:
            shutil.copyfileobj(response, stream)
    except OSError as error:
        raise Unreachable(f"{URL}: {error}") from None
    return file


def read_members(package: BinaryIO, endings: tuple[str, ...]) -> dict[str, dict[str, bytes]]:
    """Files below `FOLDER` of a Debian package, by their path without one of these endings, then by ending.

    Raises UserError for what is no Debian package.
    """
    parts: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=_data_archive(package), mode="r|*") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(FOLDER):
                continue
            for ending in endings:
                mark = ending if ending.startswith("_") else f".{ending}"
                if path.name.endswith(mark):
                    content = tar.extractfile(member)
                    assert content is not None
                    key = str(path.with_name(path.name.removesuffix(mark)))
                    parts.setdefault(key, {})[ending] = content.read()
    return parts


def _data_archive(package: BinaryIO) -> BinaryIO:
    """The member `data.tar.*` of an `ar` archive: a line, then 60 bytes of name and size before each."""
    if package.read(8) != b"!<arch>\n":
        raise UserError("it is no Debian package: it does not begin with !<arch>")
    while header := package.read(60):
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return io.BytesIO(package.read(size))
        package.seek(size + size % 2, io.SEEK_CUR)
    raise UserError("it is no Debian package: it has no member data.tar")


def find_sentence(text: bytes, language: str) -> str:
    """The sentence of a stamp: the first line in English, `fr.utf8=…` in French; "" without one."""
    lines = text.decode("utf-8", errors="replace").splitlines()
    if language == "en":
        return lines[0].strip() if lines else ""
    start = f"{language}.utf8="
    return next((line.removeprefix(start).strip() for line in lines if line.startswith(start)), "")


def make_picture(png: bytes) -> np.ndarray[Any, Any]:
    """uint8 [4, 32, 32]: the opaque part of a picture, as large as it fits, in the middle."""
    image = open_image(png).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox() or (0, 0, *image.size))
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def decode_sound(av: Any, ogg: bytes) -> np.ndarray[Any, Any]:
    """int16 [samples], one channel, `RATE` samples a second, `SECONDS` at most."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(io.BytesIO(ogg)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return samples[: SECONDS * RATE]


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise UserError("the voices of stamps need PyAV: pip install 'jepa-core[video]'") from None
    return av
