"""The command line: `jepa train`, `eval`, `plugins`, `recipes`.

What the user got wrong is one line on standard error and exit code 2; `--debug` shows the traceback.
torch and timm load inside the commands that need them, so that `jepa --help` is quick.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa_core.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, evaluate and extend joint-embedding predictive architectures (JEPA).",
)
recipes_app = typer.Typer(help="Recipes: runs written down.", invoke_without_command=True)
plugins_app = typer.Typer(help="Plugins and the components they offer.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(plugins_app, name="plugins")
out = Console()
err = Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.setting=value, any number", show_default=False)
]


def main() -> None:
    """Entry point of the `jepa` command."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except UserError as error:
        if debug:
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from None


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name or a .toml file", show_default=False)
    ] = None,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/RECIPE-TIME")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove a run that is in the folder")
    ] = False,
) -> None:
    """Train a recipe, or go on with a run."""
    from jepa_core import loop
    from jepa_core import run as runs
    from jepa_core.memory import keep_freed_blocks
    from jepa_core.recipes import load_recipe

    keep_freed_blocks()
    if resume is not None:
        if recipe is not None and "=" in recipe:
            overrides, recipe = [recipe, *(overrides or [])], None
        if recipe is not None:
            raise UserError("--resume takes the recipe from the run; give no recipe")
        if run is not None or overwrite:
            raise UserError("--resume goes on in the run's own folder; leave out --run and --overwrite")
        if not (resume / runs.RECIPE).is_file():
            raise UserError(f"{str(resume)!r} is not a run: it holds no {runs.RECIPE}")
        resolved, folder = load_recipe(resume / runs.RECIPE, *(overrides or [])), resume
    elif recipe is None:
        raise UserError("which recipe? `jepa recipes` lists them")
    else:
        resolved = load_recipe(recipe, *(overrides or []))
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = run or Path("runs") / f"{resolved.name.replace('/', '-')}-{stamp}"
    finished = loop.train(resolved, folder, resume=resume is not None, overwrite=overwrite)
    out.print(f"{finished.step:,} steps done; the run is in [bold]{escape(str(folder))}[/]", highlight=False)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder")],
    probe: Annotated[str, typer.Option(help="Probes, separated by commas; by default the recipe's")] = "",
    split: Annotated[str, typer.Option(help="train, val or test: where the probes are scored")] = "test",
    role: Annotated[str, typer.Option(help="target or context: which encoder")] = "target",
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON")] = False,
) -> None:
    """Probe a run's frozen features beside a random-initialised twin and raw pixels."""
    from jepa_core.evaluate.runs import evaluate_run

    result = evaluate_run(run, [name for name in probe.split(",") if name], split, role)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        out.print(result.table())


@recipes_app.callback()
def recipes(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False
) -> None:
    """List every recipe with the first line of its head."""
    if context.invoked_subcommand is not None:
        return
    from jepa_core.recipes import names

    heads = {name: _head(path) for name, path in names().items()}
    _rows(("recipe", "what"), list(heads.items()), heads, as_json)


@recipes_app.command("show")
def show_recipe(recipe: str, overrides: Overrides = None) -> None:
    """Print a recipe resolved: every setting, every default written out."""
    from jepa_core.recipes import load_recipe

    sys.stdout.write(load_recipe(recipe, *(overrides or [])).to_toml())


@plugins_app.callback()
def list_plugins(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False
) -> None:
    """List the plugins that were found, what became of each, and every component."""
    if context.invoked_subcommand is not None:
        return
    from jepa_core import plugins
    from jepa_core.protocols import KINDS

    found = plugins.get()
    offered = {kind: found.catalogue(kind) for kind in KINDS}
    states = [(p.name, p.state, p.origin, p.error) for p in found.found]
    data = {
        "plugins": [vars(p) for p in found.found],
        "components": {kind: dict(catalogue.owners) for kind, catalogue in offered.items()},
    }
    _rows(("plugin", "state", "from", "error"), states, data, as_json)
    if not as_json:
        names = [
            (kind, ", ".join(sorted(catalogue.classes)) or "none") for kind, catalogue in offered.items()
        ]
        _rows(("component", "names"), names, None, False)


@plugins_app.command("list")
def list_again(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON")] = False) -> None:
    """The same as `jepa plugins`."""
    list_plugins(typer.Context(typer.main.get_command(plugins_app)), as_json)


@plugins_app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(help="A plugin, or a component such as multiblock")],
) -> None:
    """What a plugin offers, or what a component's settings are."""
    from jepa_core import plugins
    from jepa_core.errors import unknown
    from jepa_core.protocols import KINDS, settings_of

    found = plugins.get()
    known: set[str] = {p.name for p in found.found}
    shown = False
    for kind in KINDS:
        catalogue = found.catalogue(kind)
        known |= set(catalogue.classes)
        for component, offered in catalogue.classes.items():
            if name in (component, catalogue.owners[component]):
                shown = True
                first = (offered.__doc__ or "").strip().splitlines()
                out.print(
                    f"[bold]{kind} {component}[/]  {escape(first[0] if first else '')}", highlight=False
                )
                if name == component:
                    rows = [(key, repr(default), said) for key, default, said in settings_of(offered.Config)]
                    _rows(("setting", "default", "what it means"), rows, None, False)
    if not shown and name not in known:
        raise unknown("plugin or component", name, known)
    for plugin in found.found:
        if plugin.name == name:
            out.print(f"{plugin.state}; from {escape(plugin.origin)} {escape(plugin.error)}", highlight=False)


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], data: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def _head(path: Path) -> str:
    """The first line of a recipe's head comment, without the recipe's name."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip().partition(": ")[2] if first.startswith("#") else ""
