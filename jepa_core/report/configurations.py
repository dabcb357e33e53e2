"""Runs grouped into configurations: a configuration is the runs of one recipe with different seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jepa_core.report.settings_table import ASIDE
from jepa_core.report.summary import RunSummary
from jepa_core.settings.recipe import Recipe, flat


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
    names = [_common_name([run.name for run in group]) for group in groups.values()]
    return [
        Configuration(name if names.count(name) == 1 else f"{name} ({group[0].name})", group)
        for name, group in zip(names, groups.values(), strict=True)
    ]


def with_styles(ordered: Sequence[Configuration]) -> list[Configuration]:
    """The configurations with the numbers of their lines, in this order."""
    return [replace(configuration, style=number) for number, configuration in enumerate(ordered)]


def _recipe_key(recipe: Recipe) -> str:
    """The settings that decide what is learned, but for the seed."""
    table = flat(recipe.to_table())
    settings = {key: value for key, value in table.items() if key not in ASIDE and key != "seed"}
    return json.dumps(settings, sort_keys=True, default=str)


def _common_name(names: Sequence[str]) -> str:
    """What the names share, without a word for the seed: `mb` of `mb-s0` and `mb-s1`.

    The run's own name where there is one run; the first name and `…` where they share nothing.
    """
    if len(names) == 1:
        return names[0]
    start = _shared_start(names)
    end = _shared_start([name[::-1] for name in names])[::-1]
    start = re.sub(r"(?:[-_./ =]+(?:seed|s)?|^(?:seed|s))[-_./ =]*$", "", start, flags=re.IGNORECASE)
    end = end.lstrip("0123456789").strip("-_./ =")
    return start.strip("-_./ =") or end or f"{names[0]} …"


def _shared_start(names: Sequence[str]) -> str:
    """The longest start that all names have."""
    first = min(names, key=len)
    return next(first[:n] for n in range(len(first), -1, -1) if all(x.startswith(first[:n]) for x in names))
