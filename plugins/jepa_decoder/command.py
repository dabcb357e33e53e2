"""`jepa decode RUN`: what a run's predictions keep, decoded to pixels and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, print_json, say, warn, whole

if TYPE_CHECKING:
    from jepa_core.evaluate import EvaluationTable


def decode(
    run: Annotated[Path, typer.Argument(help="A run's folder", autocompletion=complete.runs)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="setting=value, any number: width, depth, batch_size, …", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, the setting steps")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, training and measures, the setting seed")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="train, val or test: what is measured and shown",
            autocompletion=complete.one_of("train", "val", "test"),
        ),
    ] = "test",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove a decoder that the run has, and begin anew")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Decode a run's predictions to pixels and measure how much of the hidden patches they keep.

    Trains a small flow-matching decoder on the run's frozen features (10 to 30 minutes on two cores); the
    same command goes on with one that was stopped or killed. Writes decode.json, a sheet of pictures and a
    section of the report into the run.

    jepa decode runs/one width=256 depth=6 --steps 20000
    """
    from jepa_core.observers.progress_bar import Terminal
    from jepa_core.runtime.stop_signals import REQUEUE, Stopped
    from jepa_decoder.decode_run import decode_run
    from jepa_decoder.settings import read_settings

    words = list(overrides or [])
    words += [f"{key}={value}" for key, value in (("steps", steps), ("seed", seed)) if value is not None]
    config = read_settings(words)
    try:
        with Terminal() as progress:
            record, tables = decode_run(run, config, split, progress, overwrite)
    except Stopped as stopped:
        warn(f"stopped by {stopped}; the same command goes on from here")
        raise typer.Exit(REQUEUE) from None
    if as_json:
        print_json(record)
    else:
        print_results(run, record, tables)


def print_results(run: Path, record: dict[str, Any], tables: list[EvaluationTable]) -> None:
    """The tables with their captions, the sentence, and where the pictures are."""
    for table in tables:
        whole(table.table())
        say(table.caption())
    say(record["says"])
    say(f"pictures: {run / 'pictures' / 'decoder.png'}; `jepa report {run}` shows them with the table")
