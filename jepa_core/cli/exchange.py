"""`jepa import` and `jepa export`: weights of other libraries to runs, and runs to other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import Overrides, Role, RunFolder, out

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there")]


def import_weights(
    source: Annotated[
        str, typer.Argument(help="A file, a folder, or the name of a timm model", show_default=False)
    ],
    overrides: Overrides = None,
    format: Annotated[
        str | None,
        typer.Option(help="Its format, where it is not to be detected", autocompletion=complete.formats),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe whose encoder this is to be", autocompletion=complete.recipes),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/import-NAME")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a run of other people's weights, for eval, report, export and further training.

    docs/exchange.md has the formats, and what each carries.
    """
    from jepa_core.formats.importing import import_run

    made = import_run(
        source, run, format=format, recipe=recipe, overrides=overrides or [], overwrite=overwrite
    )
    _say(f"read as {made.format}: encoder {made.recipe.encoder.name}; {made.preprocessing.words()}")
    for note in made.notes:
        _say(f"note: {note}")
    _say(f"the run is in {made.folder}; next: jepa eval {made.folder}")


def export_run(
    run: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            help="The format; `jepa plugins` lists them",
            show_default=False,
            autocompletion=complete.formats,
        ),
    ],
    to_path: Annotated[
        Path | None, typer.Option("--out", help="File or folder; by default RUN/exports/FORMAT")
    ] = None,
    role: Role = "target",
    overwrite: Overwrite = False,
) -> None:
    """Write a run's encoder, and how its images are prepared, for another library."""
    from jepa_core.formats.exporting import export_run as export

    written = export(run, to, to_path, role=role, overwrite=overwrite)
    _say(f"wrote {written.path}: {', '.join(written.parts)} of step {written.step:,}")
    _say(f"images: {written.preprocessing.words()}")


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
