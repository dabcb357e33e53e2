"""Writes a new plugin from the templates in this folder."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from unicodedata import normalize

from jepa_core import plugins
from jepa_core.errors import UserError, unknown
from jepa_core.recipes.selftest import plain_selftest
from jepa_core.scaffold.kinds import MADE

WORDS = {"data": "data source"}
"""What a kind is called in a sentence, where that is not its name."""


def new_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes the distribution `jepa-NAME` with one component into a folder; returns the files.

    Raises UserError for a name that cannot be used or is taken, an unknown kind, a folder that is not empty,
    and where no installed plugin has a recipe `selftest`, which the new plugin's recipe extends.
    """
    if kind not in MADE:
        raise unknown("kind of plugin", kind, MADE)
    _check_name(name, kind)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not an empty folder; choose another with --folder")
    own_data = "data.path=photos" if kind == "data" else "data.name=folder data.path=photos"
    words = {"name": name, "Class": _class_name(name), "kind": kind, "base": _base()}
    words |= {"what": WORDS.get(kind, kind), "own_data": own_data}
    root = files("jepa_core.scaffold") / "templates"
    return [
        _write(source, folder / Template(path).substitute(words), words)
        for path, source in (*_templates(root / "both"), *_templates(root / kind))
    ]


def _check_name(name: str, kind: str) -> None:
    """Raises UserError unless `jepa_NAME` can be a new package and NAME a new component."""
    if not re.fullmatch("[a-z]([a-z0-9_]*[a-z0-9])?", name) or keyword.iskeyword(name):
        plain = normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        better = re.sub(r"[^a-z0-9]+", "_", plain.removeprefix("jepa")).strip("_")
        usable = better and better[0].isalpha() and not keyword.iskeyword(better)
        hint = f"; {better} would do" if usable else ""
        raise UserError(
            f"plugin name {name!r}: expected lower-case letters, digits and underscores between them, "
            f"a letter first{hint}"
        )
    if name.startswith("jepa"):
        raise UserError(f"plugin name {name!r}: leave the jepa out, the package will be called jepa_NAME")
    if name in {plugin.name for plugin in plugins.registry().statuses} or find_spec(f"jepa_{name}"):
        raise UserError(f"plugin name {name!r} is taken: a package jepa_{name} is installed; choose another")
    registry = plugins.registry()
    owners = registry.functions(kind)[1] if kind in plugins.FUNCTIONS else registry.catalogue(kind).owners
    if name in owners:
        raise UserError(f"plugin {owners[name]!r} already has the {kind} {name!r}; choose another name")


def _base() -> str:
    """The recipe that the new plugin's recipe extends."""
    base = plain_selftest()
    if base is None:
        raise UserError("no installed plugin has a recipe called selftest to start from; see `jepa plugins`")
    return base


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _templates(folder: Traversable, parent: str = "") -> Iterator[tuple[str, Traversable]]:
    """(path in the new folder, template) for every template in `folder` and the folders in it."""
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _templates(entry, f"{parent}{entry.name}/")
        elif entry.name.endswith(".template"):
            yield f"{parent}{entry.name.removesuffix('.template')}", entry


def _write(source: Traversable, path: Path, words: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(source.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return path
