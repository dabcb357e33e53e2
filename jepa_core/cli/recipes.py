"""`jepa recipes`: what can be trained, at what cost, with what result; and what each setting means."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_core.cli.console import AsJson, Overrides, RecipeName, blocks, document, print_json, rows

if TYPE_CHECKING:
    from jepa_core.recipes.annotate import Head
    from jepa_core.settings.recipe import Recipe

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
    groups: Annotated[
        bool, typer.Option("--groups", help="Print the optimizer's groups of parameters instead")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe resolved: every setting with what it means and, where it differs, its default.

    What is printed is a recipe again:

    jepa recipes show ijepa/demo masker.name=random > mine.toml
    jepa train mine.toml

    With --groups: which parameters the optimizer has in which group, how many, at what rate and weight decay.
    """
    from jepa_core.recipes.annotate import read_head, to_commented_toml, to_json
    from jepa_core.recipes.files import find
    from jepa_core.recipes.load import load_recipe

    resolved, head = load_recipe(recipe, *(overrides or [])), read_head(find(recipe))
    if groups:
        _show_groups(resolved, as_json)
    elif as_json:
        print_json(to_json(resolved, head))
    else:
        document(resolved.to_toml() if plain else to_commented_toml(resolved, head))


def _show_groups(recipe: Recipe, as_json: bool) -> None:
    """A line for each group of the optimizer; the model is built for it."""
    from jepa_core.assembly import build_model
    from jepa_core.training.parameter_groups import describe_groups

    facts = describe_groups(build_model(recipe), recipe.optimizer)
    if as_json:
        print_json({"optimizer": recipe.optimizer.name, "groups": facts})
        return
    cells = [
        (
            fact["group"] or "(rest)",
            ", ".join(fact["match"]),
            f"{fact['tensors']:,}",
            f"{fact['parameters']:,}",
            "frozen" if fact["frozen"] else f"{fact['lr_scale']:.4g}",
            "" if fact["frozen"] else " → ".join(f"{value:g}" for value in fact["weight_decay"]),
        )
        for fact in facts
    ]
    rows(("group", "match", "tensors", "parameters", "lr scale", "weight decay"), cells)


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
