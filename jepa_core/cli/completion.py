"""Shell completion: recipes, run folders, probes, plugins, and the keys and values of overrides.

    jepa train ijepa/demo masker.name=<TAB>      block  multiblock  random  rasterised  union

What is unusual: overrides are completed against the component that the recipe, or an override before the
cursor, names. Nothing here imports torch: what plugins offer is read from a file (`completion_index.py`).

A shell puts a blank behind the only candidate. So a key that is alone comes with its values, which makes
two candidates, and the cursor stays behind `=`.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import typer

from jepa_core.cli.completion_index import ENGINE, Known, Offer, load_known, named_components
from jepa_core.errors import UserError
from jepa_core.recipes.toml_text import read_file

Candidates = list[tuple[str, str]]
"""What may stand there, and what it means (zsh and fish show it)."""

RECIPE = "recipe.toml"
MAX_BASES = 8
"""Recipes that extend one another are followed so far; a circle ends here."""


def recipes(context: typer.Context, incomplete: str) -> Candidates:
    """Names of recipes, then .toml files; behind `--resume`, which takes no recipe, overrides."""
    if _resumed_run(context.params):
        return overrides(context, incomplete)
    index = load_known()
    named = {name: recipe["what"] for name, recipe in index["recipes"].items()} if index else {}
    matching = [(name, what) for name, what in named.items() if name.startswith(incomplete)]
    is_toml_file = lambda path: path.suffix == ".toml" and path.is_file()  # noqa: E731
    return matching or [(path, "") for path in _paths(incomplete, is_toml_file)]


def overrides(context: typer.Context, incomplete: str) -> Candidates:
    """`section.setting=value`: sections, then settings, then values."""
    index = load_known()
    if index is None:
        return []
    settings = _settings(index, _components(index, context.params))
    key, sign, _ = incomplete.partition("=")
    if sign:
        return [(f"{key}={value}", "") for value in settings[key]["values"]] if key in settings else []
    while True:
        following = dict(_next_words(settings, incomplete))
        if len(following) != 1:
            return [(word, _short(means)) for word, means in following.items()]
        incomplete = next(iter(following))
        if incomplete.endswith("="):
            values = settings[incomplete[:-1]]["values"]
            return [(incomplete, _short(following[incomplete])), *((f"{incomplete}{v}", "") for v in values)]


def runs(incomplete: str) -> Candidates:
    """Folders that hold a run."""
    return [(path, "") for path in _paths(incomplete, lambda path: (path / RECIPE).is_file())]


def runs_then_overrides(context: typer.Context, incomplete: str) -> Candidates:
    """Folders that hold a run; behind the first one, overrides of its recipe too."""
    return [*runs(incomplete), *(overrides(context, incomplete) if context.params.get("run") else [])]


def complete_runs(incomplete: str) -> Candidates:
    """Folders that hold a run, and `auto`."""
    return [*runs(incomplete), ("auto", "Go on with --run's, or start it")]


def keys(context: typer.Context, incomplete: str) -> Candidates:
    """Settings by name, `train.steps`."""
    words = overrides(context, incomplete)
    return [(word.removesuffix("="), means) for word, means in words if word.endswith(("=", "."))]


def one_of(*words: str) -> Callable[[], Candidates]:
    """A completer that offers these words."""
    return lambda: [(word, "") for word in words]


def formats() -> Candidates:
    """Names of formats of weights."""
    index = load_known()
    return [(name, "") for name in index["components"]["format"]] if index else []


def probes(incomplete: str) -> Candidates:
    """Names of probes, any number with commas between them."""
    index = load_known()
    return _several(incomplete, index["components"]["probe"] if index else ())


def evaluations(incomplete: str) -> Candidates:
    """Names of evaluations that see the model, any number with commas between them."""
    index = load_known()
    return _several(incomplete, index["evaluations"] if index else ())


def _several(incomplete: str, names: Iterable[str]) -> Candidates:
    before, comma, _ = incomplete.rpartition(",")
    return [(f"{before}{comma}{name}", "") for name in names if name not in before.split(",")]


def complete_names(incomplete: str) -> Candidates:
    """Names of plugins and of components."""
    index = load_known()
    if index is None:
        return []
    components = [
        (name, kind)
        for kind, names in index["components"].items()
        for name in names
        if kind != ENGINE and "*" not in name
    ]
    return [*((name, "plugin") for name in index["plugins"]), *components]


def _resumed_run(params: Mapping[str, Any]) -> str:
    """The run that `--resume` names, or nothing."""
    run = str(params.get("resume") or "")
    return "" if run == "auto" else run


def _components(index: Known, params: Mapping[str, Any]) -> dict[str, str]:
    """The component of each section, from the recipe or run and the overrides on the line so far."""
    recipe, run = str(params.get("recipe") or ""), params.get("run")
    words = [recipe, *(params.get("overrides") or ()), *(run if isinstance(run, list) else ())]
    folder = _resumed_run(params) or (str(run[0]) if isinstance(run, list) and run else "")
    chosen = index["defaults"] | _of_recipe(index, str(Path(folder) / RECIPE) if folder else recipe)
    for word in words:
        path, _, value = word.partition("=")
        section = path.removesuffix(".name")
        table, _, entry = section.partition(".")
        if value and (section in index["sections"] or (table in index["tables"] and entry.isidentifier())):
            chosen[section] = value.strip("\"' ")
    return chosen


def _of_recipe(index: Known, recipe: str, depth: int = 0) -> dict[str, str]:
    """The components that a recipe names, by its name or its file; none where it cannot be read."""
    if recipe in index["recipes"]:
        return dict(index["recipes"][recipe]["components"])
    try:
        table = read_file(Path(recipe))
    except (UserError, ValueError):
        return {}
    base = str(table.pop("extends", ""))
    if base.endswith(".toml"):
        base = str(Path(recipe).parent / base)
    inherited = _of_recipe(index, base, depth + 1) if base and depth < MAX_BASES else {}
    return {**inherited, **named_components(table, tuple(index["tables"]))}


def _settings(index: Known, components: Mapping[str, str]) -> dict[str, Offer]:
    """Every override that makes sense with these components, `masker.ratio`, …."""
    offers = {"seed": Offer(values=["0"], means="The seed"), "name": Offer(values=[], means="Its name")}
    kinds = dict(index["sections"])
    kinds |= {path: index["tables"][path.partition(".")[0]] for path in components if "." in path}
    for section, kind in kinds.items():
        named = index["components"][kind]
        if kind in index["sections"] or "." in section:
            names = [name for name in named if "*" not in name]
            offers[f"{section}.name"] = Offer(values=names, means=f"Which {kind}")
        name = components.get(section, "")
        pattern = name if name in named else next((p for p in named if fnmatchcase(name, p)), "")
        for key, offer in named.get(pattern, {}).items():
            offers.setdefault(f"{section}.{key}", offer)
    return offers


def _next_words(settings: Mapping[str, Offer], incomplete: str) -> Iterator[tuple[str, str]]:
    """The words that go on from here to the next dot, or to `=`."""
    for path, setting in settings.items():
        if path.startswith(incomplete):
            dot = path.find(".", len(incomplete))
            yield (path[: dot + 1], "") if dot >= 0 else (f"{path}=", setting["means"])


def _short(means: str) -> str:
    """The first sentence, without what a shell's menu would read as markup."""
    return means.partition(". ")[0].replace("[", "(").replace("]", ")").strip()


def _paths(incomplete: str, accepts: Callable[[Path], bool]) -> Iterable[str]:
    """Paths that go on from `incomplete`, or stand one folder deeper, and are wanted."""
    prefix, slash, start = incomplete.rpartition("/")
    prefix += slash
    try:
        for path in sorted(Path(os.path.expanduser(prefix or ".")).iterdir()):
            if not path.name.startswith(start) or (path.name.startswith(".") and not start):
                continue
            if accepts(path):
                yield f"{prefix}{path.name}"
            elif path.is_dir():
                yield from (f"{prefix}{path.name}/{p.name}" for p in sorted(path.iterdir()) if accepts(p))
    except OSError:  # a folder that cannot be read has nothing to offer
        return


@contextmanager
def whole_words() -> Iterator[None]:
    """While bash asks for completions: its words joined again where it cuts them, at `=` and `:`.

    Readline keeps what stands before the last cut, so that part is taken off the answers. Other shells hand
    over whole words and are left alone.
    """
    if os.environ.get("_JEPA_COMPLETE") != "complete_bash":
        yield
        return
    words, at, prefix = join(os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"]))
    os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(at))
    answers = io.StringIO()
    try:
        with redirect_stdout(answers):
            yield
    finally:
        lines = [line.removeprefix(prefix) for line in answers.getvalue().split()]
        if len(lines) == 1 and lines[0].endswith("="):  # a key of which no value is known
            lines.append(f"{lines[0]}…")
        sys.stdout.writelines(f"{line}\n" for line in lines)


def join(words: list[str], at: int) -> tuple[list[str], int, str]:
    """(whole words up to the cursor, index of the one at the cursor, what readline keeps of it)."""
    whole = re.sub(r"\n([=:]+)(?:\n|$)", r"\1", "\n".join(words[: at + 1])).split("\n")
    at_cut = bool(re.fullmatch("[=:]+", words[at]))
    return whole, len(whole) - 1, whole[-1] if at_cut else whole[-1].removesuffix(words[at])
