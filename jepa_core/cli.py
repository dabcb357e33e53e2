"""The command line: `jepa train`, `eval`, `plugins`, `recipes`.

What the user got wrong is one line on standard error and exit code 2; `--debug` shows the traceback.
torch and timm load inside the commands that need them, so that `jepa --help` is quick.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa_core.errors import UserError

if TYPE_CHECKING:
    from jepa_core.plugins import Catalogue
    from jepa_core.recipes import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


class Aloud(logging.Handler):
    """While it is entered, what the library logs (a download, a split held out) goes to standard error."""

    log = logging.getLogger("jepa")

    def __enter__(self) -> None:
        self.level_before = self.log.level
        self.log.setLevel(logging.INFO)
        self.log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self.log.removeHandler(self)
        self.log.setLevel(self.level_before)

    def emit(self, record: logging.LogRecord) -> None:
        """Looks standard error up each time: a progress bar takes its place while it is shown."""
        print(self.format(record), file=sys.stderr)


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
    from jepa_core.memory import keep_freed_blocks

    keep_freed_blocks()
    given = overrides or []
    if resume is None:
        resolved, folder = _fresh(recipe, given, run)
    elif run is not None or overwrite:
        raise UserError("--resume goes on in the run's own folder; leave out --run and --overwrite")
    else:
        resolved, folder = _resumed(resume, given if recipe is None else [recipe, *given]), resume
    try:
        finished = loop.train(resolved, folder, resume=resume is not None, overwrite=overwrite)
    except KeyboardInterrupt:
        err.print(_stopped(folder), soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(130) from None
    out.print(f"{finished.step:,} steps done; the run is in [bold]{escape(str(folder))}[/]", highlight=False)


def _fresh(recipe: str | None, overrides: list[str], run: Path | None) -> tuple[Recipe, Path]:
    from jepa_core.recipes import load_recipe

    if recipe is None:
        raise UserError("which recipe? `jepa recipes` lists them")
    resolved = load_recipe(recipe, *overrides)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return resolved, run or Path("runs") / f"{resolved.name.replace('/', '-')}-{stamp}"


def _resumed(folder: Path, overrides: list[str]) -> Recipe:
    from jepa_core.run import recipe_of

    if overrides and "=" not in overrides[0]:
        raise UserError("--resume takes the recipe from the run; give no recipe")
    return recipe_of(folder, *overrides)


def _stopped(folder: Path) -> str:
    """What Ctrl-C leaves behind."""
    from jepa_core.checkpoints import found

    saved = found(folder)
    if not saved:
        return "stopped before the first checkpoint; train.checkpoint_every=N writes one every N steps"
    return f"stopped; jepa train --resume {folder} goes on from {saved[-1].name}"


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
    if as_json:
        print(json.dumps(heads, indent=2))
    else:
        _rows(("recipe", "what"), list(heads.items()))


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
    if as_json:
        owners = {kind: dict(catalogue.owners) for kind, catalogue in offered.items()}
        print(json.dumps({"plugins": [vars(p) for p in found.found], "components": owners}, indent=2))
        return
    _rows(("plugin", "state", "from", "error"), [(p.name, p.state, p.origin, p.error) for p in found.found])
    names = [(kind, ", ".join(sorted(catalogue.classes)) or "none") for kind, catalogue in offered.items()]
    _rows(("component", "names"), names)


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
    catalogues = [found.catalogue(kind) for kind in KINDS]
    named = [plugin for plugin in found.found if plugin.name == name]
    components = [(c.kind, c.classes[name]) for c in catalogues if name in c.classes]
    if not named and not components:
        raise unknown(
            "plugin or component", name, {p.name for p in found.found}.union(*(c.classes for c in catalogues))
        )
    for plugin in named:
        _title(f"plugin {name}", f"{plugin.state}, from {plugin.origin} {plugin.error}")
        _rows(("component", "names", "what"), [row for c in catalogues for row in _offers(c, name)])
    for kind, component in components:
        _title(f"{kind} {name}", _summary(component))
        _rows(("setting", "default", "what it means"), list(settings_of(component.Config)))


def _offers(catalogue: Catalogue, plugin: str) -> list[tuple[str, str, str]]:
    """A row for each class that the plugin offers, under however many names."""
    names: dict[type, list[str]] = {}
    for name, component in catalogue.classes.items():
        if catalogue.owners[name] == plugin:
            names.setdefault(component, []).append(name)
    return [(catalogue.kind, ", ".join(of), _summary(component)) for component, of in names.items()]


def _summary(component: type) -> str:
    """The first line of a class's docstring."""
    return (component.__doc__ or "").strip().partition("\n")[0]


def _title(what: str, said: str) -> None:
    out.print(f"[bold]{escape(what)}[/]  {escape(said)}", highlight=False, soft_wrap=True)


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
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
