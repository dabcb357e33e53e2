"""`jepa runs` and `jepa status`: what became of runs, read from their folders alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, RunFolder, print_json, rows, say, title, warn
from jepa_core.errors import UserError

if TYPE_CHECKING:
    from jepa_core.runs.status import RunStatus

DEFAULT_FOLDER = Path("runs")


def list_runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs, or folders with runs in them; by default runs",
            show_default=False,
            autocompletion=complete.runs,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only runs with this tag; repeatable")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List runs with state, steps, scores and tags.

    A score is the first one of each probe in eval.json, in %; val_knn is the best in training.
    """
    from jepa_core.runs.status import read_status

    runs = []
    for folder in expand_runs(folders or ([DEFAULT_FOLDER] if DEFAULT_FOLDER.is_dir() else [])):
        try:
            runs.append(read_status(folder))
        except UserError as error:  # one run that cannot be read hides no other
            warn(f"left out: {error}")
    runs = [run for run in runs if set(tag or ()) <= set(run.labels.tags)]
    if as_json:
        print_json([run.facts() for run in runs])
    elif runs:
        head = ("run", "state", "step", "scores in %", "changed", "tags", "recipe")
        rows(head, [_cells(run) for run in runs])
    else:
        say("no runs")


def show_status(
    run: RunFolder,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="End with 0: finished, 75: stopped, to be resumed, 2: failed, 3: running",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what became of a run: its state, step, last good checkpoint, and who works on it.

    For a scheduler whose launcher loses the exit code 75 of a stopped run:

    jepa status runs/h14 --exit-code; test $? -eq 75 && requeue
    """
    from jepa_core.runs.status import EXIT_CODES, read_status

    status = read_status(run)
    checkpoint, damages = _last_good(run)
    if as_json:
        print_json({**status.facts(), "last_good_checkpoint": checkpoint, "damaged_checkpoints": damages})
    else:
        for name, text in _lines(status, checkpoint, damages):
            title(f"{name:12}", text)
    if exit_code:
        raise typer.Exit(EXIT_CODES[status.state])


def expand_runs(folders: list[Path]) -> list[Path]:
    """Each folder that is a run, and in place of any other the runs below it; each run once.

    Raises UserError for a folder that neither is a run nor holds one, and one that cannot be read.
    """
    from jepa_core.runs.status import find_runs

    runs: list[Path] = []
    for folder in folders:
        below = find_runs(folder)
        if not below and folder != DEFAULT_FOLDER:
            raise UserError(f"{str(folder)!r} is not a run and holds none: there is no recipe.toml")
        runs += below
    return list(dict.fromkeys(runs))


def _last_good(run: Path) -> tuple[str | None, list[str]]:
    """(the newest checkpoint that holds what was written, what is wrong with newer ones)."""
    from jepa_core.runs.checkpoints import newest_good

    try:
        checkpoint, damages = newest_good(run)
    except UserError as error:
        return None, [str(error)]
    return None if checkpoint is None else str(checkpoint), damages


def _lines(status: RunStatus, checkpoint: str | None, damages: list[str]) -> list[tuple[str, str]]:
    """The lines of `jepa status`; what is empty is left out."""
    facts = [
        ("run", f"{status.folder}  {status.labels.name}".strip()),
        ("recipe", status.recipe),
        ("state", f"{status.state}: {status.why}" if status.why else status.state),
        ("step", _steps(status)),
        ("checkpoint", checkpoint or "none that is whole"),
        *(("damaged", damage) for damage in damages),
        ("scores", _scores(status)),
        ("changed", f"{_age(status)} ago"),
        ("tags", ", ".join(status.labels.tags)),
        ("note", status.labels.note),
    ]
    return [(name, text) for name, text in facts if text]


def _cells(run: RunStatus) -> tuple[str, ...]:
    name = f"{run.folder} ({run.labels.name})" if run.labels.name else str(run.folder)
    return name, run.state, _steps(run), _scores(run), _age(run), ", ".join(run.labels.tags), run.recipe


def _steps(run: RunStatus) -> str:
    return f"{run.step:,}" if run.total_steps is None else f"{run.step:,} of {run.total_steps:,}"


def _scores(run: RunStatus) -> str:
    return ", ".join(f"{name} {100 * score:.1f}" for name, score in run.scores.items())


def _age(run: RunStatus) -> str:
    """`3 min`, `5 h`, `2 d`: time since the run's folder was last written to."""
    seconds = max(0.0, time.time() - run.changed)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
