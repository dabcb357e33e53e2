"""The command line: the `jepa` command, one file for each of its commands.

What the user got wrong is one line on standard error and exit code 2; `--debug` shows the traceback.
torch and timm load inside the commands that need them, so that `jepa --help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from jepa_core.cli import plugins, recipes
from jepa_core.cli.console import Aloud, err
from jepa_core.cli.evaluate import evaluate
from jepa_core.cli.train import train
from jepa_core.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("eval")(evaluate)
app.add_typer(recipes.app, name="recipes")
app.add_typer(plugins.app, name="plugins")


def main() -> None:
    """Entry point of the `jepa` command."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        with Aloud():
            app()
    except UserError as error:
        if debug:
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from None


def _version(asked: bool) -> None:
    if asked:
        from jepa_core import __version__

        print(f"jepa-core {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and stop")
    ] = False,
) -> None:
    """Train, evaluate and extend joint-embedding predictive architectures (JEPA)."""
