"""Where a recipe's file is: by a plugin's name for it, by its path, beside the recipe that extends it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError, unknown
from jepa_core.recipes.toml_text import check_is_file
from jepa_core.runtime.plugin_catalogue import left_out
from jepa_core.settings.validation_errors import show


def names() -> dict[str, Path]:
    """Every recipe of every plugin, by name."""
    folders = plugins.registry().recipe_folders()
    return {
        f"{plugin}/{file.stem}": file
        for plugin, folder in sorted(folders.items())
        for file in sorted(folder.glob("*.toml"))
        if _is_recipe_file(file)
    }


def _is_recipe_file(file: Path) -> bool:
    """A regular file that can be read, with a printable name; a plugin's folder may hold anything."""
    return file.stem.isprintable() and file.is_file() and os.access(file, os.R_OK)


def find(name_or_path: str | Path) -> Path:
    """The file of a recipe. Raises UserError when there is none."""
    text = str(name_or_path)
    if text.endswith(".toml"):
        check_is_file(text)
        return Path(text)
    known = names()
    if text not in known:
        raise _no_recipe(text, known)
    return known[text]


def _no_recipe(text: str, known: Mapping[str, Path]) -> UserError:
    """The error for a word that is no recipe: it may be something else, or the short form of a name."""
    if "=" in text:
        return UserError(f"{text!r} is a setting; name a recipe before it (`jepa recipes` lists them)")
    if os.path.isfile(os.path.join(text, "recipe.toml")):
        return UserError(f"{text!r} is a run; go on with it: jepa train --resume {text}")
    ends = [name for name in known if name.endswith(f"/{text}")]
    files = [f"{text}.toml"] if text and os.path.isfile(f"{text}.toml") else []
    error = str(unknown("recipe", text, known))
    if (ends or files) and "Did you mean" not in error:
        error += f" Did you mean {[*ends, *files][0]!r}?"
    return UserError(f"{error}{left_out(plugins.registry().statuses)}")


def find_base(path: Path, base: Any) -> Path:
    """The file that the recipe in `path` extends: one beside it, or a recipe by name. Raises UserError."""
    if not isinstance(base, str) or not base:
        raise UserError(f"recipe {path}: extends is {show(base)}; expected one recipe's name or file")
    beside = path.parent / base
    try:
        return find(beside if beside.suffix == ".toml" else base)
    except UserError as error:
        raise UserError(f"recipe {path} extends {base!r}: {error}") from None
