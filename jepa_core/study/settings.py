"""The settings of a study: what stands in a STUDY.toml, and the rules that a type cannot express."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from jepa_core.errors import UserError, unknown
from jepa_core.settings.base import Settings

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,59}")
"""Names of arms and data sets: they are names of folders on every system, and words of a command."""

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(value: Any) -> Any:
    """`"5 min"`, `"1.5 h"`, `"90 s"` or a plain number of seconds, as seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value) if isinstance(value, str) else None
    if match and match[2] in UNITS:
        return float(match[1]) * UNITS[match[2]]
    if isinstance(value, str):
        raise ValueError(f"a duration such as '90 s', '5 min' or '2 h', not {value!r}")
    return value


Duration = Annotated[float, BeforeValidator(seconds_of), Field(gt=0)]


def _no_seed(overrides: tuple[str, ...]) -> tuple[str, ...]:
    for text in overrides:
        if text.partition("=")[0].strip() == "seed":
            raise ValueError("settings without `seed`, which stands in `seeds`")
    return overrides


Overrides = Annotated[tuple[str, ...], AfterValidator(_no_seed)]


class ArmSettings(Settings):
    """One arm of a study, or one of its data sets."""

    set: Overrides = ()
    """What differs from the study's recipe, as `section.setting=value`."""


class BudgetSettings(Settings):
    """What every cell may cost."""

    equal: Literal["steps", "time", "flops", "images"] | None = None
    """What is the same for all arms. `time` and `flops` give an arm the steps that its measured step allows.
    By default every arm trains for the steps of its own recipe."""
    per_cell: Duration | None = None
    """Training time of a cell (`"5 min"`). Without it the baseline's own steps are the measure."""


class RangeSettings(Settings):
    """A range that a search draws a setting from."""

    low: float
    """The least value."""
    high: float
    """The greatest value."""
    log: bool = False
    """Whether values are drawn evenly in the logarithm."""
    whole: bool = False
    """Whether only whole numbers are drawn."""


class SearchSettings(Settings):
    """A search over settings: every trial is an arm; the best one runs again on fresh seeds."""

    space: dict[str, RangeSettings | tuple[Any, ...]]
    """For each setting a range (`{ low = 1e-4, high = 1e-2, log = true }`) or a list of values."""
    trials: int = Field(20, ge=1, le=10_000)
    """Arms that are tried."""
    sampler: Literal["tpe", "random", "gp", "cmaes"] = "tpe"
    """Optuna's sampler."""
    pruner: Literal["none", "median", "quarter"] = "none"
    """Whether a trial whose mean over its first seeds is below the median of the others' at as many seeds, or
    not in the best quarter, gets no further seeds (Optuna's MedianPruner, PercentilePruner)."""
    pruner_trials: int = Field(5, ge=1)
    """Trials before the first one that may be pruned."""
    maximise: bool = True
    """Whether a greater metric is better."""
    seed: int = Field(0, ge=0)
    """Seed of the sampler."""
    storage: str | None = None
    """URL of an Optuna storage in which finished trials are recorded as well, for Optuna's dashboard."""
    fresh_seeds: tuple[int, ...] = (1000, 1001, 1002, 1003, 1004, 1005)
    """Seeds on which the best trial and the baseline run again."""


class StudySettings(Settings):
    """A STUDY.toml."""

    recipe: str = Field(min_length=1)
    """A recipe's name, or a .toml file (looked for beside the study's file first)."""
    set: Overrides = ()
    """Settings for all cells, as `section.setting=value`."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((0, 1, 2, 3, 4, 5), min_length=1)
    """Seeds of every arm; arms are compared seed by seed."""
    metric: str = "knn.top1"
    """A score of eval.json: `PROBE.SCORE`, `rankme`, `feature_std` or `evaluations.NAME.SCORE`."""
    split: Literal["train", "val", "test"] = "val"
    """The split that the metric is of."""
    probes: tuple[str, ...] = ()
    """Probes of the recipe that are fitted; by default all of them."""
    images: int | None = Field(None, ge=1)
    """Samples of each split that scores are made on, a seeded draw; by default all."""
    baseline: str | None = None
    """The arm that the others are compared with; by default the first."""
    arms: dict[str, ArmSettings] = Field(default_factory=dict)
    """The arms by name."""
    datasets: dict[str, ArmSettings] = Field(default_factory=dict)
    """Data sets by name, crossed with the arms."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Lists of values by setting, crossed with each other and with the arms."""
    budget: BudgetSettings = BudgetSettings()
    """What every cell may cost."""
    search: SearchSettings | None = None
    """A search over settings in place of a grid."""
    claims: str = "files"
    """Where workers agree on who does what: `files` in the study's folder, or a database's URL."""
    lease: Duration = 60.0
    """Time without a sign of life after which a worker's cell is given to another one."""
    retries: int = Field(2, ge=0, le=100)
    """How often a cell that ended with an error is tried again."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of a worker; by default the cores divided by the number of workers."""

    def check(self) -> None:
        """Raises UserError for repeated seeds, names that cannot be folders, and empty or repeated lists."""
        _check_seeds("seeds", self.seeds)
        for kind, names in (("arm", self.arms), ("data set", self.datasets)):
            _check_names(kind, list(names))
        if not self.arms and not self.grid and self.search is None:
            raise UserError("nothing to compare: give [arms.NAME] tables, a [grid] or a [search]")
        for key, values in self.grid.items():
            _check_values(key, values)
        if self.search is not None:
            self._check_search(self.search)

    def _check_search(self, search: SearchSettings) -> None:
        _check_seeds("search.fresh_seeds", search.fresh_seeds)
        if self.grid:
            raise UserError("a study has a [grid] or a [search]; put the grid's settings into search.space")
        if both := sorted({*search.fresh_seeds} & {*self.seeds}):
            raise UserError(f"search.fresh_seeds has {both[0]}, which is in seeds as well; choose others")
        if not search.space:
            raise UserError("search.space is empty; give it settings with a range or a list of values")
        for key, entry in search.space.items():
            if not isinstance(entry, RangeSettings):
                _check_values(key, entry)
            elif entry.low >= entry.high or (entry.log and entry.low <= 0):
                raise UserError(
                    f"search.space {key!r}: low {entry.low:g}, high {entry.high:g}; expected low below high, "
                    "and low above 0 where log is true"
                )


def _check_seeds(setting: str, seeds: tuple[int, ...]) -> None:
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise UserError(f"setting {setting!r} repeats {', '.join(map(str, repeated))}; each seed is one run")


def _check_names(kind: str, names: list[str]) -> None:
    lower: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(
                f"{kind} {name!r}: expected a name of at most 60 letters, digits, '_', '.', '+' and '-'"
            )
        if name.lower() in lower:
            raise UserError(f"{kind}s {lower[name.lower()]!r} and {name!r} differ in case alone")
        lower[name.lower()] = name


def _check_values(key: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise UserError(f"grid {key!r} has no values")
    if key == "seed":
        raise UserError("grid 'seed': the seeds of a study stand in `seeds`")
    repeated = [value for number, value in enumerate(values) if _is_in(value, values[:number])]
    if repeated:
        raise UserError(f"grid {key!r} repeats {repeated[0]!r}")


def _is_in(value: Any, others: tuple[Any, ...]) -> bool:
    """Whether a value is among others; 1, 1.0 and true are three values."""
    return any(value == choice and type(value) is type(choice) for choice in others)


def check_baseline(baseline: str, known: list[str]) -> None:
    """Raises UserError for a baseline that is no arm."""
    if baseline not in known:
        raise unknown("arm", baseline, known)
