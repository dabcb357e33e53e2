"""The runs that a command is given: folders of runs, or folders in which there are runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jepa_core.errors import UserError
from jepa_core.runs.folder import RECIPE

DEPTH = 4
"""Levels below a folder on which runs are looked for."""
SKIPPED = {"checkpoints", "tensorboard", "report", "pictures"}
"""Folders of a run in which there are no further runs."""


def expand(folders: Sequence[Path]) -> list[Path]:
    """The runs among `folders`, and in those that are no runs themselves, in order.

    Raises UserError for a folder that is no run and has none in it.
    """
    runs: list[Path] = []
    for folder in folders:
        if (folder / RECIPE).is_file():
            runs.append(folder)
            continue
        inner = find_runs(folder)
        if not inner:
            raise UserError(f"{str(folder)!r} is not a run: it holds no {RECIPE}, and no runs are in it")
        runs += [run for run in inner if run not in runs]
    return runs


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder and its sub-folders, sorted by path; links are not followed below it."""
    return sorted(_runs_in(folder, DEPTH))


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:  # a folder that may not be read holds no run for this user
        return
    for entry in entries:
        path = Path(entry.path)
        if (path / RECIPE).is_file():
            yield path
        elif depth > 1 and entry.name not in SKIPPED and not entry.name.startswith("."):
            yield from _runs_in(path, depth - 1)
