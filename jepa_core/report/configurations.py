"""Runs grouped into configurations: a configuration is the runs of one recipe with different seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from jepa_core.report.settings_table import ASIDE
from jepa_core.report.summary import RunSummary
from jepa_core.settings.recipe import Recipe, flatten_table

WORD = re.compile(r"[^-_./ =]+")
"""A part of a run's name."""
SEED_WORDS = {"seed", "s"}


@dataclass(frozen=True, eq=False)
class Configuration:
    """The runs of one recipe."""

    name: str
    runs: Sequence[RunSummary]
    style: int = 0
    """Number of its line in the curves."""

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the first run's seed."""
        return self.runs[0].recipe

    @property
    def seeds(self) -> str:
        """The seeds of the runs, in order."""
        return ", ".join(str(seed) for seed in sorted(run.recipe.seed for run in self.runs))


def configurations(runs: Sequence[RunSummary]) -> list[Configuration]:
    """The runs by recipe, in order of their first runs."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(_recipe_key(run.recipe), []).append(run)
    names = [_common_name(group) for group in groups.values()]
    return [
        Configuration(name if names.count(name) == 1 else f"{name} ({group[0].name})", group)
        for name, group in zip(names, groups.values(), strict=True)
    ]


def with_styles(ordered: Sequence[Configuration]) -> list[Configuration]:
    """The configurations with the numbers of their lines, in this order."""
    return [replace(configuration, style=number) for number, configuration in enumerate(ordered)]


def _recipe_key(recipe: Recipe) -> str:
    """The settings that decide what is learned, but for the seed."""
    table = flatten_table(recipe.to_table())
    settings = {key: value for key, value in table.items() if key not in ASIDE and key != "seed"}
    return json.dumps(settings, sort_keys=True, default=str)


def _common_name(runs: Sequence[RunSummary]) -> str:
    """What the runs' names share, without a word for the seed: `mb` of `mb-s0` and `mb-s1`.

    The run's own name where there is one run. Where the names share nothing, the folder that the runs lie in.
    """
    first = runs[0].name
    if len(runs) == 1:
        return first
    words = [WORD.findall(run.name) for run in runs]
    start = _common_start(words)
    while start and start[-1].lower() in SEED_WORDS:
        start.pop()
    if start:
        return first[: list(WORD.finditer(first))[len(start) - 1].end()]
    end = _common_start([name[::-1] for name in words])
    if end:
        return first[list(WORD.finditer(first))[-len(end)].start() :]
    folders = {run.folder.resolve().parent for run in runs}
    return folders.pop().name if len(folders) == 1 else f"{first} …"


def _common_start(words: Sequence[Sequence[str]]) -> list[str]:
    """The words that all lists begin with."""
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    return [column[0] for column in alike]
