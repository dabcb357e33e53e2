"""`jepa recipes`: what can be trained, and what each setting of it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from jepa_core.cli.console import AsJson, Overrides, rows

app = typer.Typer(help="Recipes: runs written down.", invoke_without_command=True)


@app.callback()
def recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List every recipe with the first line of its head."""
    if context.invoked_subcommand is not None:
        return
    from jepa_core.recipes import names

    heads = {name: _head(path) for name, path in names().items()}
    if as_json:
        print(json.dumps(heads, indent=2))
    else:
        rows(("recipe", "what"), list(heads.items()))


@app.command("show")
def show_recipe(recipe: str, overrides: Overrides = None) -> None:
    """Print a recipe resolved: every setting, every default written out."""
    from jepa_core.recipes import load_recipe

    sys.stdout.write(load_recipe(recipe, *(overrides or [])).to_toml())


def _head(path: Path) -> str:
    """The first line of a recipe's head comment, without the recipe's name."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip().partition(": ")[2] if first.startswith("#") else ""
