"""`jepa eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_core.cli.console import AsJson, out


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder")],
    probe: Annotated[str, typer.Option(help="Probes, separated by commas; by default the recipe's")] = "",
    split: Annotated[str, typer.Option(help="train, val or test: where the probes are scored")] = "test",
    role: Annotated[str, typer.Option(help="target or context: which encoder")] = "target",
    as_json: AsJson = False,
) -> None:
    """Probe a run's frozen features beside a random-initialised twin and raw pixels."""
    from jepa_core.evaluate.runs import evaluate_run

    result = evaluate_run(run, [name for name in probe.split(",") if name], split, role)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        out.print(result.table())
