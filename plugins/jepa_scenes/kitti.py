"""`kitti`: a folder of KITTI's object detection (Geiger et al. 2012), labelled by its nearest vehicle.

    path/training/image_2/000000.png …
    path/training/label_2/000000.txt …

The task is VTAB's `closest_vehicle_distance`. The splits that VTAB takes follow the drives, by a table that
is not part of this folder; here 10 % each of the pictures are held out for `val` and `test`, chosen by a hash
of their names. Pictures of one drive may thus be in two splits, so scores cannot be compared with published
ones.

Axes: n pictures of a split.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from jepa_core.data.cache import expand_home
from jepa_core.data.images import MAX_PIXELS
from jepa_core.data.splits import HeldOutSettings, SplitSource
from jepa_core.errors import UserError
from jepa_scenes.folders import SquashedImages, check_files, names_in
from jepa_scenes.labels import VEHICLE_CLASSES, VEHICLES, vehicle_class

COLUMNS = 15
"""Of a line of labels: type, truncated, occluded, alpha, 4 of the box, 3 sizes, x y z, rotation."""
Z = 13


class KittiSource(SplitSource):
    """KITTI's training pictures, squashed to squares, with four classes of distance."""

    class Config(HeldOutSettings):
        """Settings of the folder of KITTI."""

        path: Path
        """Folder that holds `training`, with image_2 and label_2 in it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.path = expand_home(config.path)

    def own_splits(self) -> Collection[str]:
        """`train`: KITTI's testing pictures have no labels."""
        return ("train",)

    def load(self, name: str) -> SquashedImages:
        """All labelled pictures. Raises UserError for files that are missing or damaged."""
        folder = self.path / "training"
        files = sorted(name for name in names_in(folder / "label_2") if name.endswith(".txt"))
        if not files:
            raise UserError(f"{folder / 'label_2'} holds no .txt files; expected KITTI's labels")
        images = [Path(file).with_suffix(".png").name for file in files]
        check_files(folder / "image_2", images, "label_2")
        labels = [
            vehicle_class(read_vehicles(folder / "label_2" / file), f"label_2/{file}") for file in files
        ]
        note = f"KITTI objects in {self.path}; {len(images):,} pictures"
        return SquashedImages(str(folder / "image_2"), images, labels, VEHICLE_CLASSES, note, MAX_PIXELS)


def read_vehicles(file: Path) -> list[float]:
    """z in metres of each car, van and truck in a file of labels. Raises UserError for another layout."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    depths = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            z = float(words[Z])
        except (IndexError, ValueError):
            raise UserError(
                f"{file}, line {number}: {line[:40]!r} is no label of KITTI: expected {COLUMNS} columns, the "
                "type and then numbers"
            ) from None
        if words[0] in VEHICLES:
            depths.append(z)
    return depths
