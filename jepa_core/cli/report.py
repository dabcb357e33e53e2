"""`jepa report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Role, print_json, say
from jepa_core.report.defaults import FULL_RUNS, IMAGES


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, or a folder with runs in it; several are compared",
            autocompletion=complete.runs,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the first run's folder")
    ] = None,
    role: Role = "target",
    images: Annotated[int, typer.Option(help="Images of each split that are looked at")] = IMAGES,
    probes: Annotated[
        bool, typer.Option(help="Probe a run that has no eval.json yet, as jepa eval does")
    ] = True,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What scores are compared with: a run, the runs of one recipe, or a row of the probe "
            "tables; by default each run's random twin"
        ),
    ] = None,
    comparison_only: Annotated[
        bool | None,
        typer.Option(
            "--comparison-only/--each-run",
            help=f"Leave out the sections of single runs; by default for more than {FULL_RUNS} runs",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what runs learned: one page with curves, masks, features, neighbours, probes."""
    from jepa_core.observers.progress_bar import Terminal
    from jepa_core.report.write import write_report

    with Terminal() as progress:
        page = write_report(
            runs,
            out,
            role=role,
            images=images,
            probes=probes,
            baseline=baseline,
            comparison_only=comparison_only,
            progress=progress,
        )
    if as_json:
        print_json(
            {"page": str(page), "pictures": str(page.with_suffix("")), "runs": [str(run) for run in runs]}
        )
    else:
        say(f"the report is {page}, its pictures are in {page.with_suffix('')}")
