"""`jepa report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import Role
from jepa_core.cli.console import out as console
from jepa_core.report.defaults import IMAGES


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs; several are compared", autocompletion=complete.runs),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the first run's folder")
    ] = None,
    role: Role = "target",
    images: Annotated[int, typer.Option(help="Images of each split that are looked at")] = IMAGES,
    probes: Annotated[
        bool, typer.Option(help="Probe a run that has no eval.json yet, as jepa eval does")
    ] = True,
) -> None:
    """Show what runs learned: one page with curves, masks, features, neighbours, probes."""
    from jepa_core.observers.progress_bar import Terminal
    from jepa_core.report.write import write_report

    with Terminal() as progress:
        page = write_report(runs, out, role=role, images=images, probes=probes, progress=progress)
    console.print(f"the report is {page}, its pictures are in {page.with_suffix('')}", soft_wrap=True)
