"""`jepa eval`."""

from __future__ import annotations

from typing import Annotated

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Role, RunFolder, whole


def evaluate(
    run: RunFolder,
    probe: Annotated[
        str,
        typer.Option(
            help="Probes, separated by commas; by default the recipe's", autocompletion=complete.probes
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            help="train, val or test: where the probes are scored",
            autocompletion=complete.one_of("train", "val", "test"),
        ),
    ] = "test",
    role: Role = "target",
    as_json: AsJson = False,
) -> None:
    """Probe a run's frozen features beside a random-initialised twin and raw pixels."""
    from jepa_core.evaluate.run import evaluate_run
    from jepa_core.observers.progress_bar import Terminal

    names = [name.strip() for name in probe.split(",")] if probe else []
    with Terminal() as progress:
        result = evaluate_run(run, names, split, role, progress)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        for each in result.tables:
            whole(each.table())
