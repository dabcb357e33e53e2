"""`jepa report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_core.cli import complete
from jepa_core.cli.console import Role
from jepa_core.cli.console import out as console
from jepa_core.report import IMAGES


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
    from jepa_core.report import write_report
    from jepa_core.terminal import Terminal

    terminal = Terminal()
    try:
        page = write_report(runs, out, role=role, images=images, probes=probes, progress=terminal)
    finally:
        terminal.end()
    console.print(f"the report is {page}, its pictures are in {page.with_suffix('')}", soft_wrap=True)
