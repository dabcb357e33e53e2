"""`jepa train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jepa_core.cli.console import Overrides, err, out
from jepa_core.errors import UserError

if TYPE_CHECKING:
    from jepa_core.recipes import Recipe


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name or a .toml file", show_default=False)
    ] = None,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/RECIPE-TIME")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove a run that is in the folder")
    ] = False,
) -> None:
    """Train a recipe, or go on with a run."""
    from jepa_core import loop
    from jepa_core.memory import keep_freed_blocks

    keep_freed_blocks()
    given = overrides or []
    if resume is None:
        resolved, folder = _fresh(recipe, given, run)
    elif run is not None or overwrite:
        raise UserError("--resume goes on in the run's own folder; leave out --run and --overwrite")
    else:
        resolved, folder = _resumed(resume, given if recipe is None else [recipe, *given]), resume
    try:
        finished = loop.train(resolved, folder, resume=resume is not None, overwrite=overwrite)
    except KeyboardInterrupt:
        err.print(_stopped(folder), soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(130) from None
    out.print(f"{finished.step:,} steps done; the run is in [bold]{escape(str(folder))}[/]", highlight=False)


def _fresh(recipe: str | None, overrides: list[str], run: Path | None) -> tuple[Recipe, Path]:
    from jepa_core.recipes import load_recipe

    if recipe is None:
        raise UserError("which recipe? `jepa recipes` lists them")
    resolved = load_recipe(recipe, *overrides)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return resolved, run or Path("runs") / f"{resolved.name.replace('/', '-')}-{stamp}"


def _resumed(folder: Path, overrides: list[str]) -> Recipe:
    from jepa_core.run import recipe_of

    if overrides and "=" not in overrides[0]:
        raise UserError("--resume takes the recipe from the run; give no recipe")
    return recipe_of(folder, *overrides)


def _stopped(folder: Path) -> str:
    """What Ctrl-C leaves behind."""
    from jepa_core.checkpoints import found

    saved = found(folder)
    if not saved:
        return "stopped before the first checkpoint; train.checkpoint_every=N writes one every N steps"
    return f"stopped; jepa train --resume {folder} goes on from {saved[-1].name}"
