"""`jepa import` and `jepa export`: weights of other libraries to runs, and runs to other libraries."""

from __future__ import annotations

import logging
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import getproxies

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Overrides, Role, RunFolder, print_json, say

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
    as_json: AsJson = False,
) -> None:
    """Make a run of other people's weights, for eval, report, export and further training.

    docs/exchange.md has the formats, and what each carries.
    """
    from jepa_core.formats.importing import import_run

    if not Path(source).exists():
        fail_fast_without_network()
    made = import_run(
        source, run, format=format, recipe=recipe, overrides=overrides or [], overwrite=overwrite
    )
    if as_json:
        facts = {"run": str(made.folder), "format": made.format, "encoder": made.recipe.encoder.name}
        images = None if made.preprocessing is None else asdict(made.preprocessing)
        print_json({**facts, "preprocessing": images, "notes": list(made.notes)})
        return
    words = "" if made.preprocessing is None else f"; {made.preprocessing.words()}"
    say(f"read as {made.format}: encoder {made.recipe.encoder.name}{words}")
    for note in made.notes:
        say(f"note: {note}")
    say(f"the run is in {made.folder}; next: jepa eval {made.folder}")


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
    as_json: AsJson = False,
) -> None:
    """Write a run's encoder, and how its images are prepared, for another library."""
    from jepa_core.formats.exporting import export_run as export

    written = export(run, to, to_path, role=role, overwrite=overwrite)
    if as_json:
        facts = {"path": str(written.path), "parts": list(written.parts), "step": written.step}
        images = None if written.preprocessing is None else asdict(written.preprocessing)
        print_json({**facts, "preprocessing": images})
        return
    say(f"wrote {written.path}: {', '.join(written.parts)} of step {written.step:,}")
    if written.preprocessing is not None:
        say(f"images: {written.preprocessing.words()}")


def fail_fast_without_network() -> None:
    """Where the hub of weights cannot be reached, its library looks into its cache alone.

    It would otherwise repeat each request for most of a minute, and print every repetition.
    """
    try:
        from huggingface_hub import constants
    except ImportError:  # timm then has other ways, or says what it lacks
        return
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    address = urlsplit(constants.ENDPOINT)
    if getproxies() or address.hostname is None:  # whether a proxy reaches it, only a request can tell
        return
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
