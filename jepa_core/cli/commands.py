"""The `jepa` command: its commands put together, and its entry point.

An error is one line on standard error and exit code 2, unless the error names another; `--debug` shows
the traceback.
torch and timm load inside the commands that need them, so that `jepa --help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from jepa_core.cli import bench, plugins, recipes, study
from jepa_core.cli.completion import whole_words
from jepa_core.cli.console import err, log_lines
from jepa_core.cli.doctor import doctor
from jepa_core.cli.error_lines import error_line, is_help
from jepa_core.cli.evaluate import evaluate
from jepa_core.cli.exchange import export_run, import_weights
from jepa_core.cli.plugin_commands import WithPlugins
from jepa_core.cli.process import check_words, prepare_process
from jepa_core.cli.report import report
from jepa_core.cli.runs import list_runs, show_status
from jepa_core.cli.train import train
from jepa_core.errors import UserError
from jepa_core.runtime.plugin_calls import refuse_exit

RUNS, EXCHANGE, LOOK = "Runs", "In and out", "Look around"

app = typer.Typer(
    cls=WithPlugins,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: jepa doctor, then jepa recipes, then jepa train ijepa/demo",
)
app.command(
    "train",
    rich_help_panel=RUNS,
    epilog="Any setting of a recipe can be overridden; jepa recipes show NAME lists them.\n\n"
    "jepa train ijepa/demo --run runs/demo\n\n"
    "jepa train ijepa/demo masker.name=random optimizer.lr=1e-3 train.steps=2000\n\n"
    "jepa train --resume runs/demo",
)(train)
app.command("eval", rich_help_panel=RUNS)(evaluate)
app.command("report", rich_help_panel=RUNS)(report)
app.command("runs", rich_help_panel=RUNS)(list_runs)
app.command("status", rich_help_panel=RUNS)(show_status)
app.command("import", rich_help_panel=EXCHANGE)(import_weights)
app.command("export", rich_help_panel=EXCHANGE)(export_run)
app.command("doctor", rich_help_panel=LOOK)(doctor)
app.add_typer(study.app, name="study", rich_help_panel=RUNS)
app.add_typer(bench.app, name="bench", rich_help_panel=LOOK)
app.add_typer(recipes.app, name="recipes", rich_help_panel=LOOK)
app.add_typer(plugins.app, name="plugins", rich_help_panel=LOOK)


def main() -> None:
    """Entry point of the `jepa` command."""
    prepare_process()
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        with log_lines, whole_words():
            check_words(sys.argv[1:])
            words = bench.accept_old_spelling(sys.argv[1:])
            raise SystemExit(refuse_exit(app, words, prog_name="jepa", standalone_mode=False))
    except Exception as error:  # whatever it is, it ends here: in one line, or with --debug in a traceback
        if is_help(error):
            raise SystemExit(0) from None
        if debug:
            raise
        err.print(f"[bold red]error:[/] {escape(error_line(error))}", soft_wrap=True, highlight=False)
        raise SystemExit(error.exit_code if isinstance(error, UserError) else 2) from None


def _version(asked: bool) -> None:
    if asked:
        from jepa_core._version import __version__

        print(f"jepa-core {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and stop")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere in the line")
    ] = False,
) -> None:
    """Train, evaluate and extend joint-embedding predictive architectures (JEPA)."""
