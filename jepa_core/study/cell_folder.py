"""A cell's folder: a run of this cell's recipe and no other, and no worker's but this one's."""

from __future__ import annotations

import shutil
from pathlib import Path

from jepa_core.errors import UserError
from jepa_core.study.plan import Cell, Study, identity_of


def prepare_folder(study: Study, cell: Cell, evict: bool) -> None:
    """Makes the cell's folder one of this recipe: a run of another one is kept in `superseded`.

    `evict`: a worker that was given up may still write, so its folder is moved away, and a copy takes its
    place; what the other one has open then belongs to the folder that was moved.
    """
    folder, aside = study.folder_of(cell), study.folder / "superseded"
    if (folder / "recipe.toml").is_file():
        written = _identity_in(folder)
        if written != cell.identity:
            _move(folder, aside / f"{cell.id}-{written}")
        elif evict:
            hung = _move(folder, aside / f"{cell.id}-hung")
            shutil.copytree(hung, folder, ignore=shutil.ignore_patterns("lock-*.json", "*.partial"))
    earlier = aside / f"{cell.id}-{cell.identity}"
    if not (folder / "recipe.toml").is_file() and earlier.is_dir() and _identity_in(earlier) == cell.identity:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            _move(folder, aside / f"{cell.id}-empty")
        earlier.rename(folder)


def _identity_in(folder: Path) -> str:
    """The identity of the run in a folder; "unknown" where its recipe cannot be read any more."""
    from jepa_core.runs.folder import read_run_recipe

    try:
        return identity_of(read_run_recipe(folder))
    except UserError:
        return "unknown"


def _move(folder: Path, target: Path) -> Path:
    """Renames a folder to `target`, or to that name with a number behind it where it is taken."""
    target.parent.mkdir(parents=True, exist_ok=True)
    number, place = 1, target
    while place.exists():
        number += 1
        place = target.with_name(f"{target.name}-{number}")
    folder.rename(place)
    return place
