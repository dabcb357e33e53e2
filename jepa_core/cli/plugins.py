"""`jepa plugins`: list the installed ones, show offers and settings, write a new one, check one."""

from __future__ import annotations

from fnmatch import fnmatchcase
from inspect import isroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, out, print_json, rows, say, title
from jepa_core.scaffold.kinds import MADE

if TYPE_CHECKING:
    from jepa_core.plugins import Catalogue, PluginStatus
    from jepa_core.testing.outcomes import Outcome

app = typer.Typer(invoke_without_command=True)


@app.callback()
def plugins(context: typer.Context, as_json: AsJson = False) -> None:
    """List plugins and components, or show one with its settings.

    jepa plugins show NAME says what a plugin offers, or what a component's settings mean.
    """
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """The same as `jepa plugins`."""
    _list(as_json)


@app.command("show")
def show_plugin(
    name: Annotated[
        str,
        typer.Argument(
            help="A plugin, or a component such as multiblock", autocompletion=complete.complete_names
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """What a plugin offers, or what a component's settings are."""
    from jepa_core import plugins
    from jepa_core.errors import unknown

    statuses, catalogues = plugins.registry().statuses, _catalogues()
    named = [plugin for plugin in statuses if plugin.name == name]
    components = [
        (catalogue.kind, catalogue.classes[pattern], catalogue.owners[pattern])
        for catalogue in catalogues
        for pattern in _matching_names(catalogue, name)
    ]
    functions = [offer for offer in _functions() if offer.name == name and offer.component is None]
    components += [
        (offer.kind, offer.component, offer.plugin)
        for offer in _functions()
        if offer.name == name and offer.component is not None
    ]
    if not named and not components and not functions:
        raise unknown(
            "plugin or component",
            name,
            {p.name for p in statuses}.union(
                *(c.classes for c in catalogues), {f.name for f in _functions()}
            ),
        )
    if as_json:
        print_json(_facts(name, named, components, catalogues))
        return
    for plugin in named:
        title(f"plugin {name}", f"{plugin.state}, from {plugin.origin} {plugin.error}".rstrip())
        offers = [row for c in catalogues for row in _offers(c, name)]
        rows(("component", "names", "what"), [*offers, *_functions_of(name)])
    for function in functions:
        title(f"{function.kind} {name}", f"of plugin {function.plugin}: {function.what}")
    for number, (kind, component, owner) in enumerate(components):
        if number or named:
            out.print()
        _show(kind, name, component, owner)


def _show(kind: str, name: str, component: type[Any], owner: str) -> None:
    from jepa_core.settings.describe import bounds, describe, summary, toml

    title(f"{kind} {name}", f"of plugin {owner}: {summary(component)}")
    settings = [
        (
            s.name,
            "required" if s.required else toml(s.default),
            s.means + bounds(s.allowed, s.means, s.default),
        )
        for s in describe(component.Config)
        if s.name != "name"
    ]
    if settings:
        rows(("setting", "default", "what it means"), settings)
    else:
        out.print("It has no settings.")


def _list(as_json: bool) -> None:
    from jepa_core import plugins

    catalogues, statuses = _catalogues(), plugins.registry().statuses
    if as_json:
        owners = {catalogue.kind: dict(catalogue.owners) for catalogue in catalogues}
        functions: dict[str, dict[str, str]] = {kind: {} for kind in plugins.FUNCTIONS}
        for offer in _functions():
            functions[offer.kind][offer.name] = offer.plugin
        facts = {"plugins": [vars(p) for p in statuses], "components": owners, "functions": functions}
        print_json(facts)
        return
    rows(("plugin", "state", "from"), [(p.name, p.state, p.origin) for p in statuses])
    for plugin in statuses:
        if plugin.error:
            say(f"{plugin.name} is {plugin.state}: {plugin.error}")
        for note in plugin.notes:
            say(f"{plugin.name}: {note}")
    out.print()
    cells = [(c.kind, ", ".join(sorted(c.classes)) or "none") for c in catalogues]
    for kind in plugins.FUNCTIONS:
        names = sorted(offer.name for offer in _functions() if offer.kind == kind)
        cells += [(kind, ", ".join(names))] if names else []
    rows(("component", "names"), cells)


class Offered(NamedTuple):
    """A function that a plugin offers by name: an evaluation, a section, a command."""

    kind: str
    name: str
    plugin: str
    what: str
    component: type[Any] | None = None
    """The class of an evaluation that has settings."""


def _functions() -> list[Offered]:
    from jepa_core import plugins
    from jepa_core.settings.evaluations import settings_class, unwrap

    return [
        Offered(
            kind, name, owners[name], _what(unwrap(offer)), unwrap(offer) if settings_class(offer) else None
        )
        for kind in plugins.FUNCTIONS
        for functions, owners in [plugins.registry().functions(kind)]
        for name, offer in functions.items()
    ]


def _what(offer: Any) -> str:
    from jepa_core.settings.describe import summary

    return summary(offer) if isroutine(offer) or isinstance(offer, type) else ""


def _functions_of(plugin: str) -> list[tuple[str, str, str]]:
    return [(offer.kind, offer.name, offer.what) for offer in _functions() if offer.plugin == plugin]


def _catalogues() -> list[Catalogue]:
    from jepa_core import plugins
    from jepa_core.plugins import KINDS

    return [plugins.registry().catalogue(kind) for kind in KINDS]


def _matching_names(catalogue: Catalogue, name: str) -> list[str]:
    """The registered name, or the patterns such as `vit_*` that match it."""
    if name in catalogue.classes:
        return [name]
    return [pattern for pattern in catalogue.classes if "*" in pattern and fnmatchcase(name, pattern)]


def _facts(
    name: str,
    named: list[PluginStatus],
    components: list[tuple[str, type[Any], str]],
    catalogues: list[Catalogue],
) -> dict[str, Any]:
    """`jepa plugins show NAME --json`: a plugin's offers, and components of this name with their settings."""
    from jepa_core.settings.describe import describe, summary

    offers = [*(row for c in catalogues for row in _offers(c, name)), *_functions_of(name)]
    return {
        "plugins": [
            vars(plugin)
            | {"offers": [{"kind": k, "names": names.split(", "), "what": w} for k, names, w in offers]}
            for plugin in named
        ],
        "components": [
            {
                "kind": kind,
                "name": name,
                "plugin": owner,
                "what": summary(component),
                "settings": [setting.facts() for setting in describe(component.Config)],
            }
            for kind, component, owner in components
        ],
    }


def _offers(catalogue: Catalogue, plugin: str) -> list[tuple[str, str, str]]:
    """A row for each class that the plugin offers, under however many names."""
    from jepa_core.settings.describe import summary

    names: dict[type, list[str]] = {}
    for name, component in catalogue.classes.items():
        if catalogue.owners[name] == plugin:
            names.setdefault(component, []).append(name)
    return [(catalogue.kind, ", ".join(of), summary(component)) for component, of in names.items()]


@app.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="What the plugin, and its component, are called")],
    folder: Annotated[
        Path | None, typer.Option(help="Where it is written; by default the new folder jepa-NAME")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help=f"What it offers: {', '.join(MADE)}",
            autocompletion=complete.one_of(*MADE),
        ),
    ] = "masker",
) -> None:
    """Write a plugin that works at once: component, recipe, test, pyproject.

    pip install --editable jepa-NAME makes it known; docs/plugins.md goes on from there.
    """
    from jepa_core.scaffold.new import new_plugin as write

    place = folder or Path(f"jepa-{name}")
    for path in write(name, kind, place):
        say(str(path))
    out.print(f"\nnext: pip install --editable {place}, then jepa plugins check {name}", markup=False)


@app.command("check")
def check_plugin(
    name: Annotated[str, typer.Argument(help="A plugin", autocompletion=complete.complete_names)],
    data: Annotated[
        bool, typer.Option("--data", help="Ask the data sources too: reads, and may fetch, their data")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check what a plugin offers against what the engine expects; exit code 1 where something fails.

    A component is built with the settings that the plugin's recipe selftest gives it, else its defaults.
    """
    from jepa_core.testing.plugin import examine_plugin

    outcomes = list(examine_plugin(name, read_data=data))
    if as_json:
        print_json({"plugin": name, "properties": [vars(o) for o in outcomes]})
    else:
        _table(name, outcomes)
    if any(outcome.state == "fails" for outcome in outcomes):
        raise typer.Exit(1)


def _table(name: str, outcomes: list[Outcome]) -> None:
    """Prints a row for each component, then the properties that fail or were not asked, with the reason."""
    by_component: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        by_component.setdefault((outcome.kind, outcome.name), []).append(outcome)
    cells = []
    for (kind, component), own in by_component.items():
        holds = [o.property for o in own if o.state == "holds"]
        asked = sum(o.state != "not asked" for o in own)
        cells.append((kind, component, f"{len(holds)} of {asked}", ", ".join(holds)))
    rows(("kind", "name", "holds", "what holds"), cells)
    for state in ("not asked", "fails"):
        chosen = [o for o in outcomes if o.state == state]
        if chosen:
            out.print(f"\n[bold]{state}[/]")
            rows(
                ("component", "property", "why"), [(f"{o.kind} {o.name}", o.property, o.said) for o in chosen]
            )
    broken = sum(o.state == "fails" for o in outcomes)
    held = sum(o.state == "holds" for o in outcomes)
    out.print(f"\nplugin {name}: {held} properties hold, {broken} fail", highlight=False, markup=False)
