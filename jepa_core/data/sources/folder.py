"""`folder`: a folder of image files; the base of sources that read files of another kind from folders.

    path/train/CLASS/*.jpg  path/val/CLASS/*.jpg  path/test/CLASS/*.jpg      (val, test: optional)
    path/CLASS/*.jpg                                                         class folders directly
    path/*.jpg                                                               just images, no labels

With `captions` each image has a caption as its second view (`jepa_core.data.captions`).

Any depth below a class folder, any case of the extension. Symbolic links are followed; below a class folder
each folder is entered once, so links in a circle end. Links that lead nowhere are left out with a warning,
or are corrupt samples where their name is that of an image. Hidden files and folders are left out. Splits
that have no folder are held out from training.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jepa_core.data.cache import expand_home
from jepa_core.data.captions import FIELDS, with_captions
from jepa_core.data.images import EXTENSIONS
from jepa_core.data.samples import BaseSamples, ImageFiles
from jepa_core.data.splits import ImageFileSettings, SplitSource
from jepa_core.errors import UserError, unknown
from jepa_core.runtime.regular_file import irregularity
from jepa_core.types.sample import Fields

log = logging.getLogger("jepa")

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class FolderSource(SplitSource):
    """Image files in folders, one folder a class; or just images. Subclasses read files of other kinds."""

    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS
    """Of the files that are taken, in lower case."""
    what: ClassVar[str] = "images"
    """What the files are, in messages."""

    class Config(ImageFileSettings):
        """Settings of the image folder."""

        path: Path
        """Folder that holds train/ (and val/, test/), or class folders, or just images."""
        captions: str | None = None
        """Where the captions are: the extension of text files beside the images (`txt`), or a table in the
        folder (`captions.jsonl`, .csv, .tsv) with the columns file and caption. By default there are none."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.path, self.max_pixels = expand_home(config.path), config.max_pixels
        self.captions = config.captions

    def fields(self) -> Fields | None:
        """An image and its caption, where the images have some."""
        return FIELDS if self.captions else None

    def own_splits(self) -> Collection[str]:
        """Those with a folder of their own; `train` alone where the classes lie directly in `path`."""
        return self._split_folders().keys()

    def load(self, name: str) -> BaseSamples:
        """Every file below the split's folder. Raises UserError when there is none."""
        folders = self._split_folders()
        classes = self._classes(folders["train"])
        walk = Walk(folders[name], self.extensions)
        files = sorted(walk.files(beside_classes=classes is not None))
        walk.warn_of_broken_entries()
        if not files:
            raise UserError(self._nothing_in(folders[name]))
        labels = _labels(files, classes, folders[name])
        return self.make_samples(folders[name], files, labels, classes and list(map(_text, classes)))

    def make_samples(
        self, root: Path, files: Sequence[str], labels: Sequence[int], classes: Sequence[str] | None
    ) -> BaseSamples:
        """The samples of these files below `root`."""
        images = ImageFiles(str(root), files, labels, classes, f"images in {root}", self.max_pixels)
        return with_captions(images, root, self.captions) if self.captions else images

    def _split_folders(self) -> dict[str, Path]:
        _check_folder(self.path, self.what)
        folders = {entry.name.lower(): Path(entry.path) for entry in _entries(self.path) if _is_folder(entry)}
        by_split = {
            split: folders[name] for split, names in _FOLDERS.items() for name in names if name in folders
        }
        return by_split if "train" in by_split else {"train": self.path}

    def _classes(self, folder: Path) -> list[str] | None:
        """The class folders that hold files; None where files lie beside them, or there are not two."""
        visible = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
        names = [entry.name for entry in visible if _is_folder(entry)]
        loose = any(_has_extension(entry, self.extensions) and _is_file(entry) for entry in visible)
        walk = Walk(folder, self.extensions)
        names = [name for name in names if any(True for _ in walk.files_of_class(name))]
        return None if loose or len(names) < 2 else names

    def _nothing_in(self, folder: Path) -> str:
        others = [entry.name for entry in _entries(folder)]
        if not others:
            return f"data.path: the folder {str(folder)!r} is empty"
        return (
            f"data.path: no {self.what} in {str(folder)!r} (entries: {len(others)}, such as {others[0]!r}); "
            f"known extensions: {' '.join(self.extensions)}"
        )


def _check_folder(path: Path, what: str) -> None:
    try:
        kind = irregularity(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise UserError(f"data.path {str(path)!r} cannot be read: {error.strerror}") from None
        raise UserError(f"data.path {str(path)!r} does not exist") from None
    if kind != "a folder":
        hint = " (for a .npz file: data.name=npz)" if path.suffix == ".npz" else ""
        raise UserError(f"data.path {str(path)!r} is {kind or 'a file'}; expected a folder of {what}{hint}")


@dataclass
class Walk:
    """The files below a folder that have one of some extensions, and the entries that are left out."""

    root: Path
    extensions: tuple[str, ...]
    broken: list[str] = field(default_factory=list)
    """Links without such an extension that lead nowhere, or to themselves; what is no file beside classes."""

    def files(self, beside_classes: bool) -> Iterator[str]:
        """Paths of the files, relative to the root. `beside_classes`: those in the root have no class."""
        for entry in _entries(self.root):
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from self.files_of_class(entry.name)
            elif beside_classes and not _is_file(entry):
                self._note_broken(entry, entry.name)
            elif self._is_wanted(entry, entry.name):
                yield entry.name

    def files_of_class(self, name: str) -> Iterator[str]:
        """Paths of the files below `root/name`, relative to the root; a folder is entered once."""
        entered, ahead, links = {_identity(self.root)}, [name], deque[str]()
        while ahead or links:
            inside = ahead.pop() if ahead else links.popleft()  # links last: a folder keeps its own path
            identity = _identity(self.root / inside)
            if identity in entered:
                continue
            entered.add(identity)
            folders: list[str] = []
            for entry in _entries(self.root / inside):
                path = os.path.join(inside, entry.name)
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    (links if entry.is_symlink() else folders).append(path)
                elif self._is_wanted(entry, path):
                    yield path
            ahead += reversed(folders)

    def _is_wanted(self, entry: os.DirEntry[str], path: str) -> bool:
        if not _has_extension(entry, self.extensions):
            self._note_broken(entry, path)
            return False
        return True

    def _note_broken(self, entry: os.DirEntry[str], path: str) -> None:
        if _has_extension(entry, self.extensions) or (entry.is_symlink() and not os.path.exists(entry.path)):
            self.broken.append(path)

    def warn_of_broken_entries(self) -> None:
        """Logs one warning with the number of entries that were left out, if there are any."""
        if self.broken:
            log.warning(
                "data: left out of %s, as they lead to no file: %d entries, such as %r",
                self.root,
                len(self.broken),
                self.broken[0],
            )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries by name. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"the folder {str(folder)!r} cannot be read: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _has_extension(entry: os.DirEntry[str], extensions: tuple[str, ...]) -> bool:
    return entry.name.lower().endswith(extensions)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _text(name: str) -> str:
    """A name that any file and terminal can take: bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _labels(files: Sequence[str], classes: list[str] | None, folder: Path) -> list[int]:
    """The number of each file's class folder, -1 without classes."""
    if classes is None:
        return [-1] * len(files)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = []
    for file in files:
        name = file.split(os.sep, 1)[0] if os.sep in file else ""
        if name not in numbers:
            raise unknown(f"class folder in {folder}", _text(name or file), map(_text, classes))
        labels.append(numbers[name])
    return labels
