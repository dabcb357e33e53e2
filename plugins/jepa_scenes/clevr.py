"""`clevr`: a folder of CLEVR v1.0 (Johnson et al. 2017) with the labels of VTAB.

    path/images/{train,val}/*.png
    path/scenes/CLEVR_{train,val}_scenes.json

VTAB's splits: `train` is the first 90 % of CLEVR's train, `val` its last 10 %, and `test` CLEVR's val, since
CLEVR's own test has no scenes. The whole of the file of scenes is read, and every picture that it describes
must be there.

Axes: n pictures of a split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_core.data.cache import expand_home
from jepa_core.data.images import MAX_PIXELS
from jepa_core.data.splits import check_split
from jepa_core.errors import UserError
from jepa_core.settings.base import SourceSettings
from jepa_scenes.folders import SquashedImages, check_files
from jepa_scenes.tasks import CLASSES, CountAndDistance, TaskName, Truth

VAL_SHARE = 0.1
"""Of CLEVR's train, its last, in VTAB."""


@dataclass(frozen=True)
class Described:
    """The pictures of a part of CLEVR, as its file of scenes describes them."""

    names: list[str]
    counts: list[int]
    distances: list[float]

    def part(self, chosen: slice) -> Described:
        """Some of them."""
        return Described(self.names[chosen], self.counts[chosen], self.distances[chosen])


class ClevrSource(CountAndDistance):
    """CLEVR's pictures, squashed to squares, labelled by count and distance."""

    class Config(SourceSettings):
        """Settings of the folder of CLEVR."""

        path: Path
        """Folder of CLEVR_v1.0, which holds `images` and `scenes`."""
        label: TaskName = "count"
        """The labels of samples, where an evaluation takes one set; the probe tables have both."""

    def __init__(self, config: Config) -> None:
        self.config, self.path = config, expand_home(config.path)
        self._read: dict[str, Described] = {}

    def split(self, name: str) -> SquashedImages:
        """`train`, `val` or `test`. Raises UserError for files that are missing or damaged."""
        task = self.config.label
        return self.with_labels(name, self.truth(name).labels(task), CLASSES[task])

    def truth(self, split: str) -> Truth:
        """Number of objects and distance of each scene."""
        described = self._described(split)
        return Truth.of(described.counts, described.distances, described.names)

    def with_labels(self, split: str, labels: Tensor, classes: Sequence[str]) -> SquashedImages:
        """The pictures of a split with these labels."""
        described, folder = self._described(split), self.path / "images" / _part(split)
        check_files(folder, described.names, _scenes_file(_part(split)))
        note = f"CLEVR in {self.path}; {split}: {len(described.names):,} pictures of its {_part(split)}"
        return SquashedImages(str(folder), described.names, labels.tolist(), classes, note, MAX_PIXELS)

    def _described(self, split: str) -> Described:
        check_split(split)
        part = _part(split)
        if part not in self._read:
            self._read[part] = read_scenes(self.path / "scenes" / _scenes_file(part))
        whole = self._read[part]
        if split == "test":
            return whole
        cut = round(len(whole.names) * (1 - VAL_SHARE))
        if not 0 < cut < len(whole.names):
            raise UserError(
                f"{_scenes_file(part)} describes {len(whole.names)} pictures; train and val need 2"
            )
        return whole.part(slice(0, cut) if split == "train" else slice(cut, None))


def _part(split: str) -> str:
    """The part of CLEVR that a split is taken from."""
    return "val" if split == "test" else "train"


def _scenes_file(part: str) -> str:
    return f"CLEVR_{part}_scenes.json"


def read_scenes(file: Path) -> Described:
    """Picture, number of objects and distance of every scene in a file of CLEVR.

    Raises UserError where it is missing, cut off, or describes something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"the scenes of CLEVR cannot be read: {file}: {error.strerror or error}; data.path is the folder "
            "CLEVR_v1.0, with images and scenes in it"
        ) from None
    except ValueError as error:
        raise UserError(f"{file} is no JSON, or is cut off: {error}") from None
    scenes = content.get("scenes") if isinstance(content, dict) else None
    if not isinstance(scenes, list) or not scenes:
        raise UserError(f"{file} has no list 'scenes'; expected a file of scenes of CLEVR v1.0")
    rows = [_facts(scene, f"scene {index} of {file}") for index, scene in enumerate(scenes)]
    return Described(*(list(values) for values in zip(*rows, strict=True)))


def _facts(scene: Any, where: str) -> tuple[str, int, float]:
    try:
        depths = [float(thing["pixel_coords"][2]) for thing in scene["objects"]]
        name = str(scene["image_filename"])
        if not depths or Path(name).name != name:
            raise ValueError
    except (KeyError, IndexError, TypeError, ValueError):
        raise UserError(
            f"{where} is no scene of CLEVR: expected image_filename, and objects with pixel_coords of three "
            "numbers"
        ) from None
    return name, len(depths), min(depths)
