"""`jepa recipes`: what can be trained, at what cost, with what result; and what each setting means."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_core.cli.console import AsJson, Overrides, RecipeName, blocks, document, print_json

if TYPE_CHECKING:
    from jepa_core.recipes.annotate import Head

app = typer.Typer(invoke_without_command=True)


@app.callback()
def recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List recipes with cost and expected result, or show one with every setting explained.

    A recipe is a run written down; jepa recipes show NAME prints all of one.
    """
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """The same as `jepa recipes`."""
    _list(as_json)


@app.command("show")
def show_recipe(
    recipe: RecipeName,
    overrides: Overrides = None,
    plain: Annotated[bool, typer.Option("--plain", help="Leave the comments out")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe resolved: every setting with what it means and, where it differs, its default.

    What is printed is a recipe again:

    jepa recipes show ijepa/demo masker.name=random > mine.toml
    jepa train mine.toml
    """
    from jepa_core.recipes.annotate import read_head, to_commented_toml, to_json
    from jepa_core.recipes.files import find
    from jepa_core.recipes.load import load_recipe

    resolved, head = load_recipe(recipe, *(overrides or [])), read_head(find(recipe))
    if as_json:
        print_json(to_json(resolved, head))
    else:
        document(resolved.to_toml() if plain else to_commented_toml(resolved, head))


def _list(as_json: bool) -> None:
    from jepa_core.recipes.annotate import read_head
    from jepa_core.recipes.files import names

    heads = {name: read_head(path) for name, path in names().items()}
    if as_json:
        print_json({name: asdict(head) for name, head in heads.items()})
    else:
        blocks([(name, _lines(head)) for name, head in heads.items()])


def _lines(head: Head) -> list[tuple[str, str]]:
    """The labelled lines under a recipe's name in the list."""
    return [("", head.what), ("cost", head.cost), ("expected", head.expected), ("data", head.data)]
