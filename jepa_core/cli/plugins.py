"""`jepa plugins`: what was found, what each plugin offers, what a component's settings are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_core.cli.console import AsJson, rows, title

if TYPE_CHECKING:
    from jepa_core.plugins import Catalogue

app = typer.Typer(help="Plugins and the components they offer.", invoke_without_command=True)


@app.callback()
def list_plugins(context: typer.Context, as_json: AsJson = False) -> None:
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
    rows(("plugin", "state", "from", "error"), [(p.name, p.state, p.origin, p.error) for p in found.found])
    names = [(kind, ", ".join(sorted(catalogue.classes)) or "none") for kind, catalogue in offered.items()]
    rows(("component", "names"), names)


@app.command("list")
def list_again(as_json: AsJson = False) -> None:
    """The same as `jepa plugins`."""
    list_plugins(typer.Context(typer.main.get_command(app)), as_json)


@app.command("show")
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
        title(f"plugin {name}", f"{plugin.state}, from {plugin.origin} {plugin.error}")
        rows(("component", "names", "what"), [row for c in catalogues for row in _offers(c, name)])
    for kind, component in components:
        title(f"{kind} {name}", _summary(component))
        rows(("setting", "default", "what it means"), list(settings_of(component.Config)))


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
