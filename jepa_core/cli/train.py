"""`jepa train`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Overrides, log_lines, out, print_json, warn
from jepa_core.cli.exchange import fail_fast_without_network
from jepa_core.errors import UserError
from jepa_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from jepa_core.protocols import TrainingRun
    from jepa_core.runs.labels import RunLabels
    from jepa_core.runs.run import Run
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
            autocompletion=complete.complete_runs,
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
    name: Annotated[str, typer.Option(help="What the run is called in lists and reports")] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A word to find the run by; repeatable")
    ] = None,
    note: Annotated[str, typer.Option(help="A remark that is kept with the run")] = "",
    as_json: AsJson = False,
) -> None:
    """Train a recipe, or go on with a run.

    SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGUSR2 save a checkpoint and end with exit code 75.
    """
    from jepa_core.runs.labels import make_labels
    from jepa_core.runs.status import read_status
    from jepa_core.runtime.distributed import is_main

    _check(resume, run, overwrite, allow_change)
    words, labels = overrides or [], make_labels(name, tag or (), note)
    if resume is None or resume == "auto":
        resolved = _new_recipe(recipe, words)
        place = nullcontext(run) if run is not None else _new_folder(resolved)
    else:
        resolved = _resumed_recipe(Path(resume), words if recipe is None else [recipe, *words])
        place = nullcontext(Path(resume))
    going_on: bool | Literal["auto"] = "auto" if resume == "auto" else resume is not None
    with place as folder:
        finished = train_in(
            resolved,
            folder,
            labels,
            resume=going_on,
            overwrite=overwrite,
            allow_change=allow_change or (),
            as_json=as_json,
        )
    if not is_main():
        return
    if as_json:
        print_json(read_status(finished.folder).facts())
    else:
        out.print(
            f"{finished.step:,} steps done; the run is in [bold]{escape(str(finished.folder))}[/]",
            highlight=False,
            soft_wrap=True,
        )


def train_in(
    recipe: Recipe,
    folder: Path,
    labels: RunLabels,
    *,
    resume: bool | Literal["auto"],
    overwrite: bool = False,
    allow_change: Sequence[str] = (),
    as_json: bool = False,
) -> Run:
    """Trains in a folder, with progress, for commands. A signal ends the command with exit code 75, Ctrl-C
    twice with 130, after a line that says how to go on."""
    from jepa_core import observers
    from jepa_core import trainer as loop
    from jepa_core.runtime.distributed import is_main
    from jepa_core.runtime.stop_signals import REQUEUE, Stopped

    if any(settings.source is not None for settings in recipe.init.values()):
        fail_fast_without_network()
    watch = [RunStart(labels), *observers.standard()]
    try:
        return loop.train(
            recipe, folder, resume=resume, watch=watch, overwrite=overwrite, allow_change=allow_change
        )
    except Stopped as stopped:
        if is_main():
            _print_end(folder, _stop_line(folder, str(stopped)), as_json)
        raise typer.Exit(REQUEUE) from None
    except KeyboardInterrupt:
        _print_end(folder, _stop_line(folder, "Ctrl-C"), as_json)
        raise typer.Exit(130) from None


class RunStart:
    """An observer that acts when a run has begun: it writes the labels and prints what waited until then."""

    def __init__(self, labels: RunLabels) -> None:
        self.labels = labels

    @hookimpl
    def jepa_run_started(self, run: TrainingRun) -> None:
        from jepa_core.runs.labels import add_labels

        log_lines.print_waiting()
        if self.labels:
            add_labels(run.folder, self.labels)


def _print_end(folder: Path, line: str, as_json: bool) -> None:
    """The line of a run that was stopped, and as JSON what became of it."""
    from jepa_core.runs.status import is_run, read_status

    warn(line)
    if as_json and is_run(folder):
        print_json(read_status(folder).facts())


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


def _new_recipe(recipe: str | None, overrides: list[str]) -> Recipe:
    from jepa_core.recipes.load import load_recipe

    if recipe is None:
        raise UserError("which recipe? `jepa recipes` lists them")
    return load_recipe(recipe, *overrides)


def _new_folder(recipe: Recipe) -> AbstractContextManager[Path]:
    """A new folder under runs/ that no other run has; of several processes the main one makes it."""
    from jepa_core.runs.folder import reserve_folder
    from jepa_core.runtime.distributed import is_main

    name = Path("runs") / f"{recipe.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    return reserve_folder(name) if is_main() else nullcontext(name)


def _resumed_recipe(folder: Path, overrides: list[str]) -> Recipe:
    from jepa_core.runs.folder import read_run_recipe

    if overrides and "=" not in overrides[0]:
        raise UserError("--resume takes the recipe from the run; give no recipe")
    return read_run_recipe(folder, *overrides)


def _stop_line(folder: Path, why: str) -> str:
    """The line that says what stopped a run and how to go on with it."""
    from jepa_core.runs.checkpoints import list_checkpoints

    saved = list_checkpoints(folder)
    if not saved:
        return f"stopped by {why} before the first checkpoint; --resume starts again from the beginning"
    return f"stopped by {why}; jepa train --resume {folder} goes on from {saved[-1].name}"
