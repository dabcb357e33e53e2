"""`jepa train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jepa_core.cli import completion as complete
from jepa_core.cli.console import Overrides, err, out
from jepa_core.errors import UserError

if TYPE_CHECKING:
    from jepa_core.settings.recipe import Recipe


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name or a .toml file", show_default=False, autocompletion=complete.recipes
        ),
    ] = None,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/RECIPE-TIME")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|auto",
            help="Go on with the run in this folder; auto: with --run's, or start it",
            autocompletion=complete.resumable,
        ),
    ] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="A setting that may differ from the resumed run's; repeatable",
            autocompletion=complete.keys,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove a run that is in the folder")
    ] = False,
) -> None:
    """Train a recipe, or go on with a run.

    SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 save a checkpoint and end with exit code 75.
    """
    from jepa_core import trainer as loop
    from jepa_core.runtime.distributed import is_main
    from jepa_core.runtime.malloc import keep_freed_blocks
    from jepa_core.runtime.stop_signals import REQUEUE, Stopped

    keep_freed_blocks()
    given, going_on = overrides or [], resume is not None
    _check(resume, run, overwrite, allow_change)
    if resume is None or resume == "auto":
        resolved, folder = _fresh(recipe, given, run)
    else:
        folder = Path(resume)
        resolved = _resumed(folder, given if recipe is None else [recipe, *given])
    try:
        finished = loop.train(
            resolved,
            folder,
            resume="auto" if resume == "auto" else going_on,
            overwrite=overwrite,
            allow_change=allow_change or (),
        )
    except Stopped as stopped:
        if is_main():
            err.print(_stopped(folder, str(stopped)), soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(REQUEUE) from None
    except KeyboardInterrupt:
        err.print(_stopped(folder, "Ctrl-C"), soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(130) from None
    if is_main():
        out.print(
            f"{finished.step:,} steps done; the run is in [bold]{escape(str(finished.folder))}[/]",
            highlight=False,
            soft_wrap=True,
        )


def _check(resume: str | None, run: Path | None, overwrite: bool, allow_change: list[str] | None) -> None:
    """Options that make no sense together."""
    if allow_change and resume is None:
        raise UserError("--allow-change speaks of a run that is resumed; give --resume RUN as well")
    if resume is not None and overwrite:
        raise UserError("--resume goes on with a run; leave out --overwrite")
    if resume == "auto" and run is None:
        raise UserError("--resume auto needs --run: the folder in which the run is, or is to be started")
    if resume not in (None, "auto") and run is not None:
        raise UserError("--resume goes on in the run's own folder; leave out --run")


def _fresh(recipe: str | None, overrides: list[str], run: Path | None) -> tuple[Recipe, Path]:
    from jepa_core.recipes.load import load_recipe

    if recipe is None:
        raise UserError("which recipe? `jepa recipes` lists them")
    resolved = load_recipe(recipe, *overrides)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return resolved, run or Path("runs") / f"{resolved.name.replace('/', '-')}-{stamp}"


def _resumed(folder: Path, overrides: list[str]) -> Recipe:
    from jepa_core.runs.folder import read_run_recipe

    if overrides and "=" not in overrides[0]:
        raise UserError("--resume takes the recipe from the run; give no recipe")
    return read_run_recipe(folder, *overrides)


def _stopped(folder: Path, why: str) -> str:
    """What a signal leaves behind."""
    from jepa_core.runs.checkpoints import found

    saved = found(folder)
    if not saved:
        return f"stopped by {why} before the first checkpoint; --resume starts again from the beginning"
    return f"stopped by {why}; jepa train --resume {folder} goes on from {saved[-1].name}"
