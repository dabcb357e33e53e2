"""Shell completion: recipes, run folders, probes, plugins, and the keys and values of overrides.

    jepa train ijepa/demo masker.name=<TAB>      block  multiblock  random  rasterised  union

What is unusual: overrides are completed against the component that the recipe, or an override before the
cursor, names. Nothing here imports torch: what plugins offer is read from a file (`known.py`).

A shell puts a blank behind the only candidate. So a key that is alone comes with its values, which makes
two candidates, and the cursor stays behind `=`.
"""

from __future__ import annotations

import io
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import typer

from jepa_core.cli.completion_index import Known, Setting, known, named_components

Candidates = list[tuple[str, str]]
"""What may stand there, and what it means (zsh and fish show it)."""

RECIPE = "recipe.toml"
DEEPEST = 8
"""Recipes that extend one another are followed so far; a circle ends here."""


def recipes(context: typer.Context, incomplete: str) -> Candidates:
    """Names of recipes, then .toml files; behind `--resume`, which takes no recipe, overrides."""
    if _resumed(context.params):
        return overrides(context, incomplete)
    found = known()
    named = {name: recipe["what"] for name, recipe in found["recipes"].items()} if found else {}
    matching = [(name, what) for name, what in named.items() if name.startswith(incomplete)]
    return matching or [(path, "") for path in _paths(incomplete, _is_recipe_file)]


def overrides(context: typer.Context, incomplete: str) -> Candidates:
    """`section.setting=value`: sections, then settings, then values."""
    found = known()
    if found is None:
        return []
    settings = _settings(found, _components(found, context.params))
    key, sign, _ = incomplete.partition("=")
    if sign:
        return [(f"{key}={value}", "") for value in settings[key]["values"]] if key in settings else []
    while True:
        ahead = dict(_ahead(settings, incomplete))
        if len(ahead) != 1:
            return [(word, _short(means)) for word, means in ahead.items()]
        incomplete = next(iter(ahead))
        if incomplete.endswith("="):
            values = settings[incomplete[:-1]]["values"]
            return [(incomplete, _short(ahead[incomplete])), *((f"{incomplete}{v}", "") for v in values)]


def runs(incomplete: str) -> Candidates:
    """Folders that hold a run."""
    return [(path, "") for path in _paths(incomplete, lambda path: (path / RECIPE).is_file())]


def resumable(incomplete: str) -> Candidates:
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
    found = known()
    return [(name, "") for name in found["components"].get("format", ())] if found else []


def probes(incomplete: str) -> Candidates:
    """Names of probes, any number with commas between them."""
    before, comma, _ = incomplete.rpartition(",")
    found = known()
    names = found["components"]["probe"] if found else {}
    return [(f"{before}{comma}{name}", "") for name in names if name not in before.split(",")]


def offered(incomplete: str) -> Candidates:
    """Names of plugins and of components."""
    found = known()
    if found is None:
        return []
    components = [(name, kind) for kind, of in found["components"].items() for name in of if "*" not in name]
    return [*((name, "plugin") for name in found["plugins"]), *components]


def _resumed(given: Mapping[str, Any]) -> str:
    """The run that `--resume` names, or nothing."""
    run = str(given.get("resume") or "")
    return "" if run == "auto" else run


def _components(found: Known, given: Mapping[str, Any]) -> dict[str, str]:
    """The component of each section, from the recipe or run and the overrides on the line so far."""
    many = tuple(found["many"])
    words = [word for word in given.get("overrides") or () if "=" in word]
    recipe = given.get("recipe")
    if run := _resumed(given):
        words = [*([recipe] if recipe and "=" in recipe else []), *words]
        recipe = str(Path(run) / RECIPE)
    chosen = {**found["defaults"], **_of_recipe(found, str(recipe or ""), many)}
    for word in words:
        path, _, value = word.partition("=")
        if section := _names(found, path):
            chosen[section] = value.strip("\"' ")
    return chosen


def _names(found: Known, path: str) -> str:
    """The section whose component an override names (`masker`, `masker.name`, `terms.a.name`), or nothing."""
    section = path.removesuffix(".name")
    first, _, entry = section.partition(".")
    of_many = first in found["many"] and entry and "." not in entry
    return section if section in found["sections"] or of_many else ""


def _of_recipe(found: Known, recipe: str, many: tuple[str, ...], depth: int = 0) -> dict[str, str]:
    if recipe in found["recipes"]:
        return found["recipes"][recipe]["components"]
    try:
        table = tomllib.loads(Path(recipe).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
    base = str(table.pop("extends", ""))
    if base.endswith(".toml"):
        base = str(Path(recipe).parent / base)
    above = _of_recipe(found, base, many, depth + 1) if base and depth < DEEPEST else {}
    return {**above, **named_components(table, many)}


def _settings(found: Known, components: Mapping[str, str]) -> dict[str, Setting]:
    """Every override that makes sense with these components, `masker.ratio`, …."""
    every = {"seed": Setting(values=["0"], means="The seed"), "name": Setting(values=[], means="Its name")}
    for section, kind in _kinds(found, components):
        names = [name for name in found["components"][kind] if "*" not in name]
        every[f"{section}.name"] = Setting(values=names, means=f"Which {kind}")
        for key, setting in _of_component(found, kind, components.get(section, "")).items():
            every.setdefault(f"{section}.{key}", setting)
    for section, settings in found["engine"].items():
        every |= {f"{section}.{key}": setting for key, setting in settings.items()}
    return every


def _kinds(found: Known, components: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from found["sections"].items()
    for path in components:
        section, dot, _ = path.partition(".")
        if dot and section in found["many"]:
            yield path, found["many"][section]


def _of_component(found: Known, kind: str, name: str) -> Mapping[str, Setting]:
    """The settings of a component by its name, or by the pattern that matches it."""
    offers = found["components"][kind]
    if name in offers:
        return offers[name]
    return next((settings for pattern, settings in offers.items() if fnmatchcase(name, pattern)), {})


def _ahead(settings: Mapping[str, Setting], incomplete: str) -> Iterator[tuple[str, str]]:
    """The words that go on from here to the next dot, or to `=`."""
    for path, setting in settings.items():
        if path.startswith(incomplete):
            dot = path.find(".", len(incomplete))
            yield (path[: dot + 1], "") if dot >= 0 else (f"{path}=", setting["means"])


def _short(means: str) -> str:
    """The first sentence, without what a shell's menu would read as markup."""
    return means.partition(". ")[0].replace("[", "(").replace("]", ")").strip()


def _is_recipe_file(path: Path) -> bool:
    return path.suffix == ".toml" and path.is_file()


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> Iterable[str]:
    """Paths that go on from `incomplete`, or stand one folder deeper, and are wanted."""
    typed = Path(incomplete)
    folder, start = (typed, "") if incomplete.endswith("/") or not incomplete else (typed.parent, typed.name)
    prefix = incomplete[: len(incomplete) - len(start)]
    try:
        beside = sorted(path for path in folder.expanduser().iterdir() if path.name.startswith(start))
        for path in beside:
            if path.name.startswith(".") and not start:
                continue
            if wanted(path):
                yield f"{prefix}{path.name}"
            elif path.is_dir():
                yield from (f"{prefix}{path.name}/{p.name}" for p in sorted(path.iterdir()) if wanted(p))
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
    words, at = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
    joined, at, kept = join(words, at)
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(at))
    answers = io.StringIO()
    try:
        with redirect_stdout(answers):
            yield
    finally:
        found = [line.removeprefix(kept) for line in answers.getvalue().split()]
        if len(found) == 1 and found[0].endswith("="):  # a key of which no value is known
            found.append(f"{found[0]}…")
        sys.stdout.writelines(f"{line}\n" for line in found)


def join(words: list[str], at: int) -> tuple[list[str], int, str]:
    """(whole words, index of the one at the cursor, what readline keeps of it) from bash's words."""
    joined: list[str] = []
    current, kept = at, ""
    for i, word in enumerate(words):
        cut = bool(joined) and (_is_break(word) or (i > 0 and _is_break(words[i - 1])))
        if i == at:
            current = len(joined) - cut
            kept = (joined[-1] if cut else "") + (word if _is_break(word) else "")
        if cut:
            joined[-1] += word
        else:
            joined.append(word)
    return joined, current, kept


def _is_break(word: str) -> bool:
    return bool(word) and set(word) <= {"=", ":"}
