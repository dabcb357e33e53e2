"""A study resolved: every cell with its recipe, its identity and its folder, before the first one starts.

A cell is one arm on one seed (and one data set, where there are several). It is an ordinary run in
`DIR/cells/ARM/seed-S` (`DIR/cells/ARM/DATASET/seed-S`). Its identity is the hash of its resolved recipe
without the settings that change nothing that is learned, so new arms and seeds keep finished cells, and a
changed recipe is another cell.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jepa_core.errors import UserError, printable
from jepa_core.recipes.load import load_recipe
from jepa_core.runs.start import FREE_TO_CHANGE
from jepa_core.settings.describe import toml
from jepa_core.settings.parse import parse
from jepa_core.settings.recipe import Recipe, flatten_table
from jepa_core.study.settings import ArmSettings, SearchSettings, StudySettings, check_baseline

MANY = 10_000
"""Cells above which a study asks whether it is meant."""


@dataclass(frozen=True)
class Arm:
    """One arm: an arm of the file, with one combination of the grid's values."""

    name: str
    base: str
    """The arm of the file; "" where the study has a grid alone."""
    factors: Mapping[str, Any] = field(default_factory=dict)
    """The grid's values by setting."""
    overrides: tuple[str, ...] = ()
    """All that differs from the study's recipe, as `section.setting=value`."""
    seeds: tuple[int, ...] | None = None
    """Its own seeds; None: the study's."""
    origin: Literal["file", "trial", "winner"] = "file"
    """Where it comes from: the study's file, or a search."""


@dataclass(frozen=True)
class Cell:
    """One arm on one seed: an ordinary run."""

    arm: str
    dataset: str | None
    seed: int
    recipe: Recipe
    identity: str
    """Hash of the recipe without the settings that may change, 16 hexadecimal digits."""

    @property
    def id(self) -> str:
        """`ARM/seed-S` or `ARM/DATASET/seed-S`: the path of its folder below `cells`."""
        return "/".join(filter(None, (self.arm, self.dataset, f"seed-{self.seed}")))


@dataclass(frozen=True)
class Study:
    """A study: its settings, its arms, its folder."""

    name: str
    file: Path | None
    folder: Path
    settings: StudySettings
    arms: tuple[Arm, ...]
    steps: Mapping[str, int] = field(default_factory=dict)
    """Optimizer steps by arm (and data set), where a budget sets them."""
    resolved: dict[tuple[str, ...], Recipe] = field(default_factory=dict, compare=False, repr=False)
    """Recipes that were resolved already, by their overrides: a large grid is resolved once."""

    @property
    def baseline(self) -> str:
        """The baseline as the file names it, or the first arm."""
        return self.settings.baseline or self.arms[0].base or self.arms[0].name

    @property
    def datasets(self) -> tuple[str | None, ...]:
        """Names of the data sets; (None,) where the recipe's own is the only one."""
        return tuple(self.settings.datasets) or (None,)

    def baseline_of(self, arm: Arm) -> Arm | None:
        """The arm that `arm` is compared with: with a grid, the baseline with the same values.

        None for a baseline itself.
        """
        for candidate in self.arms:
            same = candidate.base == self.baseline and candidate.factors == arm.factors
            if (candidate.name == self.baseline or same) and candidate.seeds == arm.seeds:
                return None if candidate.name == arm.name else candidate
        return None

    def folder_of(self, cell: Cell) -> Path:
        """The run's folder."""
        return self.folder / "cells" / cell.id

    def recipe_of(self, arm: Arm, dataset: str | None) -> Recipe:
        """An arm's resolved recipe on one data set, with the steps of the budget. Raises UserError."""
        settings = self.settings
        chosen = settings.datasets[dataset].set if dataset is not None else ()
        steps = self.steps.get(arm_key(arm, dataset))
        budget = () if steps is None else (f"train.steps={steps}",)
        overrides = (*settings.set, *chosen, *arm.overrides, *budget)
        if overrides not in self.resolved:
            try:
                path = _recipe_path(settings.recipe, self.file)
                self.resolved[overrides] = load_recipe(path, *overrides)
            except UserError as error:
                raise UserError(f"arm {arm.name!r}: {error}") from None
        return self.resolved[overrides]

    def cells(self) -> list[Cell]:
        """Every cell, seed by seed, so that a study that is cut short has whole pairs.

        Raises UserError for a recipe that cannot be, and for arms that resolve to the same one.
        """
        resolved = [
            (arm, dataset, self.recipe_of(arm, dataset)) for dataset in self.datasets for arm in self.arms
        ]
        _check_distinct(resolved)
        cells = [
            (number, _cell(arm, dataset, recipe, seed))
            for arm, dataset, recipe in resolved
            for number, seed in enumerate(self.settings.seeds if arm.seeds is None else arm.seeds)
        ]
        return [cell for _, cell in sorted(cells, key=lambda numbered: numbered[0])]


def _cell(arm: Arm, dataset: str | None, recipe: Recipe, seed: int) -> Cell:
    recipe = replace(recipe, seed=seed)
    return Cell(arm.name, dataset, seed, recipe, identity_of(recipe))


def arm_key(arm: Arm, dataset: str | None) -> str:
    """`ARM` or `ARM/DATASET`: what is measured and given steps."""
    return arm.name if dataset is None else f"{arm.name}/{dataset}"


def load_study(file: Path | str, folder: Path | str | None = None, *, yes: bool = False) -> Study:
    """A study from its file; its folder is `folder`, or the file's name without suffix, beside it.

    `yes` allows more than 10,000 cells. Raises UserError in one line for what is wrong in the file.
    """
    file = Path(file)
    table = _read(file)
    if folder is None and not file.suffix:
        raise UserError(f"study {str(file)!r} has no suffix to leave out; name its folder with --folder")
    return study_of(table, Path(folder) if folder else file.with_suffix(""), file=file, yes=yes)


def study_of(table: Mapping[str, Any], folder: Path, *, file: Path | None = None, yes: bool = False) -> Study:
    """A study from plain values, as a STUDY.toml has them. Raises UserError as `load_study` does."""
    if isinstance(table.get("search"), Mapping):  # an optional table: its mistakes are found by its own name
        parse(SearchSettings, table["search"], "study.search")
    settings = parse(StudySettings, table, "study")
    settings.check()
    count = len(settings.seeds) * max(1, len(settings.datasets)) * _arm_count(settings)
    if count > MANY and not yes:
        raise UserError(f"the study has {count:,} cells, more than {MANY:,}; --yes says that this is meant")
    study = Study(file.stem if file else folder.name, file, folder, settings, tuple(_arms(settings)))
    _check_names_are_distinct(study.arms)
    if settings.baseline is not None:
        check_baseline(settings.baseline, [*settings.arms, *(arm.name for arm in study.arms)])
    return study


def identity_of(recipe: Recipe) -> str:
    """Hash of a recipe without the settings that change nothing that is learned."""
    table = flatten_table(recipe.to_table())
    fixed = {key: value for key, value in table.items() if not _is_free(key)}
    return digest(fixed)


def digest(value: Any) -> str:
    """16 hexadecimal digits of a plain value's SHA-256."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_free(key: str) -> bool:
    return any(f"{key}.".startswith(f"{free}.") for free in FREE_TO_CHANGE)


def _read(file: Path) -> dict[str, Any]:
    """The table in a study's file. Raises UserError for one that is missing or no TOML."""
    name = printable(repr(str(file)))
    if not file.exists():
        raise UserError(f"study file {name} does not exist")
    if not file.is_file():
        raise UserError(f"study {name} is no file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"study {name} is not a text in UTF-8, as TOML is") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"study {name} is not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"study {name} cannot be read: {error.strerror}") from None


def _recipe_path(name: str, file: Path | None) -> str:
    """A recipe's file beside the study's, where there is one; else the name as it is."""
    beside = file.parent / name if file is not None and name.endswith(".toml") else None
    return str(beside) if beside is not None and beside.is_file() else name


def _arm_count(settings: StudySettings) -> int:
    count = max(1, len(settings.arms))
    for values in settings.grid.values():
        count *= len(values)
    return count + (settings.search.trials if settings.search else 0)


def _arms(settings: StudySettings) -> Iterator[Arm]:
    """The arms of the file, each with every combination of the grid's values."""
    arms = settings.arms or {"": ArmSettings()}
    if not settings.arms and not settings.grid:
        arms = {"recipe": ArmSettings()}
    for name, arm in arms.items():
        for values in itertools.product(*settings.grid.values()):
            factors = dict(zip(settings.grid, values, strict=True))
            label = ",".join(filter(None, (name, *(f"{key}={_word(v)}" for key, v in factors.items()))))
            overrides = (*arm.set, *(f"{key}={toml(value)}" for key, value in factors.items()))
            yield Arm(_short(label), name, factors, overrides)


def _word(value: Any) -> str:
    """A grid's value in the name of a folder."""
    text = value if isinstance(value, str) else toml(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-") or "empty"


def _short(name: str, most: int = 120) -> str:
    """A name that a folder can have; a long one ends in a hash."""
    return name if len(name) <= most else f"{name[: most - 9]}-{digest(name)[:8]}"


def _check_names_are_distinct(arms: Sequence[Arm]) -> None:
    names: dict[str, Arm] = {}
    for arm in arms:
        earlier = names.setdefault(arm.name.lower(), arm)
        if earlier is not arm:
            raise UserError(
                f"two arms would be called {arm.name!r}: {', '.join(earlier.overrides)} and "
                f"{', '.join(arm.overrides)}; make them [arms.NAME] tables"
            )


def _check_distinct(resolved: Sequence[tuple[Arm, str | None, Recipe]]) -> None:
    """Raises UserError where two arms would train the same recipe on the same data."""
    first: dict[tuple[str | None, str], Arm] = {}
    for arm, dataset, recipe in resolved:
        if arm.origin != "file":  # a search may draw values that it had before, or the baseline's
            continue
        table = recipe.to_table() | {"name": ""}
        earlier = first.setdefault((dataset, digest(table)), arm)
        if earlier.name != arm.name:
            raise UserError(
                f"arms {earlier.name!r} and {arm.name!r} resolve to the same recipe; "
                f"what differs ({', '.join(arm.overrides) or 'nothing'}) is the recipe's own value"
            )
