"""`folder`: a folder of image files; the base of sources that read files of another kind from folders.

    path/train/CLASS/*.jpg  path/val/CLASS/*.jpg  path/test/CLASS/*.jpg      (val, test: optional)
    path/CLASS/*.jpg                                                         class folders directly
    path/*.jpg                                                               just images, no labels

Any depth below a class folder, any case of the extension, symbolic links followed (loops are not).
Hidden files and folders are passed over. Splits that have no folder are held out from training.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from jepa_core.data.images import EXTENSIONS
from jepa_core.data.samples import BaseSamples, ImageFiles
from jepa_core.data.splits import HeldOutSettings, SplitSource
from jepa_core.errors import UserError, unknown

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class FolderSource(SplitSource):
    """Image files in folders, one folder a class; or just images. Subclasses read files of other kinds."""

    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS
    """Of the files that are taken, in lower case."""
    what: ClassVar[str] = "images"
    """What the files are, in messages."""

    class Config(HeldOutSettings):
        """Settings of the image folder."""

        path: Path
        """Folder that holds train/ (and val/, test/), or class folders, or just images."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.path = config.path.expanduser()

    def own_splits(self) -> Collection[str]:
        """Those with a folder of their own; `train` alone where the classes lie directly in `path`."""
        return self._split_folders().keys()

    def load(self, name: str) -> BaseSamples:
        """Every file below the split's folder. Raises UserError when there is none."""
        folders = self._split_folders()
        classes = self._classes(folders["train"])
        files = sorted(_files(folders[name], "", self.extensions))
        if not files:
            raise UserError(self._nothing_in(folders[name]))
        labels = [_label(file, classes, folders[name]) for file in files]
        return self.opened(folders[name], files, labels, classes)

    def opened(
        self, root: Path, files: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None
    ) -> BaseSamples:
        """The samples of these files below `root`."""
        return ImageFiles(str(root), files, labels, classes, f"images in {root}")

    def _split_folders(self) -> dict[str, Path]:
        _check_folder(self.path, self.what)
        present = {entry.name.lower(): Path(entry.path) for entry in os.scandir(self.path) if entry.is_dir()}
        found = {
            split: present[name] for split, names in _FOLDERS.items() for name in names if name in present
        }
        return found if "train" in found else {"train": self.path}

    def _classes(self, folder: Path) -> list[str] | None:
        """The class folders that hold files; None where files lie beside them, or there are not two."""
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        loose = any(
            entry.name.lower().endswith(self.extensions) and entry.name[0] != "." and not entry.is_dir()
            for entry in os.scandir(folder)
        )
        names = [name for name in names if any(True for _ in _files(folder, name, self.extensions))]
        return None if loose or len(names) < 2 else names

    def _nothing_in(self, folder: Path) -> str:
        others = sorted(entry.name for entry in os.scandir(folder))
        if not others:
            return f"data.path: the folder {str(folder)!r} is empty"
        return (
            f"data.path: no {self.what} in {str(folder)!r} (entries: {len(others)}, such as {others[0]!r}); "
            f"known extensions: {' '.join(self.extensions)}"
        )


def _check_folder(path: Path, what: str) -> None:
    if not os.path.exists(path):
        raise UserError(f"data.path {str(path)!r} does not exist")
    if not path.is_dir():
        hint = " (for a .npz file: data.name=npz)" if path.suffix == ".npz" else ""
        raise UserError(f"data.path {str(path)!r} is a file; expected a folder of {what}{hint}")


def _files(
    root: Path, inside: str, extensions: tuple[str, ...], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Files below `root/inside`, relative to `root`; a link back to a folder above is a loop."""
    folder = root / inside
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(root, os.path.join(inside, entry.name), extensions, (*above, here))
            elif entry.name.lower().endswith(extensions):
                yield os.path.join(inside, entry.name)


def _label(file: str, classes: list[str] | None, folder: Path) -> int:
    if classes is None:
        return -1
    name = file.split(os.sep, 1)[0] if os.sep in file else ""
    if name not in classes:
        raise unknown(f"class folder in {folder}", name or file, classes)
    return classes.index(name)
