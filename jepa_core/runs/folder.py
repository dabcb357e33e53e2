"""A run's folder: the names of its files, the recipe in it, which of its files a new run replaces.

recipe.toml      the resolved recipe          metrics.jsonl   one JSON object a logged step
checkpoints/     see checkpoints.py           events.jsonl    starts, stops, alarms (events_file.py)
masks.png        masks over real images       curves.png      the metrics drawn
tensorboard/     the metrics as events        corrupt_files.tsv   inputs that were passed over
pictures/        what plugins draw at the end   lock-*.json     while a process trains (lock.py)
evaluations/     all probe tables             eval.json       the newest of them
predictions.npz  what the probes predicted    run.json        name, tags and note (labels.py)
fields.json      what samples are made of (fields_file.py)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from jepa_core.errors import UserError
from jepa_core.recipes.load import load_recipe
from jepa_core.runs.events_file import EVENTS
from jepa_core.runs.input_log import CORRUPT_FILES
from jepa_core.runs.labels import LABELS
from jepa_core.runs.metrics_file import METRICS
from jepa_core.runtime.regular_file import irregularity
from jepa_core.settings.recipe import Recipe

RECIPE = "recipe.toml"

OWN_FILES = (
    *(RECIPE, METRICS, EVENTS, CORRUPT_FILES, LABELS, "masks.png", "curves.png", "eval.json"),
    *("predictions.npz", "report.html", "fields.json", "transforms.json"),
)

OWN_FOLDERS = ("checkpoints", "tensorboard", "report", "pictures", "evaluations", "sections")


@contextmanager
def reserve_folder(name: Path) -> Iterator[Path]:
    """A new folder called `name`, or `name-2`, `name-3`, … where that exists.

    It is removed again if left empty, and so is the folder around it if that was new too.
    Made exclusively, so that two runs that start at once never share one. Raises UserError where it cannot
    be made.
    """
    around = [] if name.parent.exists() else [name.parent]
    for number in count(1):
        folder = name if number == 1 else name.with_name(f"{name.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"the run's folder {str(folder)!r} cannot be written: {error.strerror}") from None
        break
    try:
        yield folder
    finally:
        with suppress(OSError):
            for empty in (folder, *around):
                empty.rmdir()


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises UserError for a folder that holds a run already, or files that a run would mix with its own."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the run's folder {str(folder)!r} is a file; name another")
    if (folder / RECIPE).exists():
        if not overwrite:
            raise UserError(
                f"{str(folder)!r} holds a run already; resume it, overwrite it, or name another folder"
            )
        return
    in_the_way = [name for name in (*OWN_FILES, *OWN_FOLDERS) if (folder / name).exists()]
    if in_the_way:
        raise UserError(
            f"{str(folder)!r} is not a run (it holds no {RECIPE}), but has {', '.join(in_the_way)}, which a "
            "run would write to; name another folder"
        )


def check_files(folder: Path) -> None:
    """Raises UserError where one of a run's files is a pipe, a device or a folder: writing to it may hang."""
    for name in OWN_FILES:
        path = folder / name
        try:
            kind = irregularity(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if kind is not None:
            raise UserError(f"{path} is {kind}; expected a regular file")


def read_run_recipe(folder: Path, *overrides: str) -> Recipe:
    """The recipe a run was started with, `overrides` on top. Raises UserError for a folder that is no run."""
    if not (folder / RECIPE).is_file():
        raise UserError(f"{str(folder)!r} is not a run: it holds no {RECIPE}")
    return load_recipe(folder / RECIPE, *overrides)


def remove_run_files(folder: Path) -> None:
    """Removes a run's own files from its folder, and nothing else; the recipe, which makes it a run, last."""
    for name in OWN_FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    for name in reversed(OWN_FILES):
        (folder / name).unlink(missing_ok=True)
