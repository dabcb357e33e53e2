"""Scores that may be compared, and their differences to a baseline.

What is unusual: scores are compared only where they answer the same question. Each `Measure` holds the scores
of one probe on one split of one data set; scores of another split, data set, number of images, role or probe
setting belong to a measure of their own, and nothing is subtracted between measures.

Axes: scores and differences are in percent and percentage points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jepa_core.errors import unknown
from jepa_core.evaluate.evaluations import why_incomparable
from jepa_core.evaluate.table import EvalResult, headline
from jepa_core.report.configurations import Configuration
from jepa_core.report.intervals import Estimate, estimate
from jepa_core.report.summary import RunSummary
from jepa_core.report.text import failure, label, percent, standard_error


@dataclass(eq=False)
class Measure:
    """The scores of one probe that may be compared, by run name."""

    task: str | None
    probe: str
    label: str = ""
    first: tuple[RunSummary, EvalResult] | None = None
    """The member that further tables are compared with."""
    tables: dict[str, EvalResult] = field(default_factory=dict)

    def score(self, run: RunSummary) -> float | None:
        """The score of the run's first row in percent; None where there is none or it is not finite."""
        table = self.tables.get(run.name)
        return None if table is None else percent(table.rows[0], self.probe)

    def error(self, run: RunSummary) -> float | None:
        """One standard error of the score, in percentage points, where it was recorded."""
        table = self.tables.get(run.name)
        return None if table is None else standard_error(table.rows[0], self.probe)

    def of_row(self, run: RunSummary, name: str) -> float | None:
        """The score of another row of the run's table, in percent."""
        table = self.tables.get(run.name)
        rows = [row for row in table.rows if row.name == name] if table else []
        return percent(rows[0], self.probe) if rows else None

    def values(self, configuration: Configuration) -> dict[str, float]:
        """The finite scores of a configuration's runs, by run name; of tables of its latest step alone."""
        steps = [table.step for table in self._tables(configuration) if table.step is not None]
        latest = max(steps, default=None)
        scores = {
            run.name: self.score(run)
            for run in configuration.runs
            if run.name in self.tables and self.tables[run.name].step == latest
        }
        return {name: score for name, score in scores.items() if score is not None}

    def left_out(self, configuration: Configuration) -> list[str]:
        """The runs whose score is of an earlier step than that of the configuration's others."""
        steps = {table.step for table in self._tables(configuration)}
        if len(steps) < 2:
            return []
        latest = max(step for step in steps if step is not None)
        runs = [run for run in configuration.runs if run.name in self.tables]
        return [run.name for run in runs if self.tables[run.name].step != latest]

    def _tables(self, configuration: Configuration) -> Iterable[EvalResult]:
        return (self.tables[run.name] for run in configuration.runs if run.name in self.tables)


def measures(runs: Sequence[RunSummary]) -> list[Measure]:
    """All measures, the one that most runs have first; what only differs in its data is named apart."""
    made: list[Measure] = []
    for run in runs:
        for table in run.all_tables:
            for probe in table.rows[0].scores:
                measure = _measure_for(made, run, table, probe)
                measure.tables.setdefault(run.name, table)
    made.sort(key=lambda measure: -len(measure.tables))
    for measure in made:
        twins = [m for m in made if (m.task, m.probe) == (measure.task, measure.probe)]
        name = label(measure.probe, measure.task)
        measure.label = f"{name} ({_distinction(measure, twins)})" if len(twins) > 1 else name
    return made


def _measure_for(made: list[Measure], run: RunSummary, table: EvalResult, probe: str) -> Measure:
    for measure in made:
        if (measure.task, measure.probe) != (table.task, probe) or measure.first is None:
            continue
        if why_not_comparable(measure.first, (run, table), probe) is None:
            return measure
    made.append(Measure(table.task, probe, first=(run, table)))
    return made[-1]


def why_not_comparable(
    first: tuple[RunSummary, EvalResult], second: tuple[RunSummary, EvalResult], probe: str
) -> str | None:
    """Why two scores of a probe cannot be subtracted, or None where they can.

    Tables of earlier versions do not say which samples they were made on; the recipes' data stand in then.
    """
    tables = [
        table.model_copy(update={"probe_settings": _only(table, probe)}) for _, table in (first, second)
    ]
    reason = why_incomparable(*tables)
    if reason is not None:
        return reason
    known = set()
    if all(table.data_hash and table.train_hash for table in tables):
        known |= {"data", "classes"}
    if all(table.probe_settings for table in tables):
        known.add("probe")
    facts = zip(_facts(*first, probe).items(), _facts(*second, probe).values(), strict=True)
    reasons = [f"{name}: {a} and {b}" for (name, a), b in facts if a != b and name not in known]
    return "; ".join(reasons) or None


def _only(table: EvalResult, probe: str) -> dict[str, Any]:
    settings = table.probe_settings
    return {probe: settings[probe]} if probe in settings else {}


def _facts(run: RunSummary, table: EvalResult, probe: str) -> Mapping[str, str]:
    """What a score depends on besides the run."""
    data, settings = run.recipe.data, run.recipe.probes.get(probe)
    chosen = data.model_dump(mode="json", exclude=set(type(data).carried))
    named = ", ".join(f"{value}" if key == "name" else f"{key} {value}" for key, value in chosen.items())
    probe_settings = table.probe_settings.get(probe) or (settings.model_dump(mode="json") if settings else {})
    return {
        "split": f"{table.split} split",
        "images": f"{table.held_out_images:,} {table.unit}",
        "training images": f"{table.train_images:,} training {table.unit}",
        "classes": f"{table.classes} classes",
        "score": headline(table.rows[0], probe),
        "data": f"{table.data} ({table.data_hash[:8]})" if table.data_hash else named,
        "encoder": f"{table.role} encoder" if table.role else table.rows[0].description,
        "probe": ", ".join(f"{key} {value}" for key, value in probe_settings.items() if key != "name"),
    }


def _distinction(measure: Measure, twins: Sequence[Measure]) -> str:
    """The facts in which a measure differs from others of the same probe."""
    facts = [_facts(*twin.first, twin.probe) for twin in twins if twin.first]
    assert measure.first is not None
    own = _facts(*measure.first, measure.probe)
    return ", ".join(value for key, value in own.items() if len({fact[key] for fact in facts}) > 1)


@dataclass(frozen=True, eq=False)
class Baseline:
    """What scores are compared with: a row of each run's own table, or a configuration.

    Without either, the row that each table names as its baseline: the random twin.
    """

    row: str | None = None
    configuration: Configuration | None = None
    run: RunSummary | None = None
    """The one run of the configuration that was named; None for all of its runs."""

    @property
    def label(self) -> str:
        """What differences are points over."""
        if self.run is not None:
            return self.run.name
        return self.configuration.name if self.configuration else self.row or "random twin"

    def reference(self, measure: Measure, run: RunSummary) -> float | None:
        """The score that a run's score is compared with, or None.

        Of a configuration it is that of the run of the same seed, or the mean where there is none.
        """
        if self.configuration is None:
            table = measure.tables.get(run.name)
            name = self.row or (table.baseline if table else None)
            return measure.of_row(run, name) if name else None
        if self.run is not None:
            return measure.score(self.run)
        scores = measure.values(self.configuration)
        if not scores:
            return None
        paired = [r for r in self.configuration.runs if r.recipe.seed == run.recipe.seed and r.name in scores]
        return scores[paired[0].name] if paired else estimate(list(scores.values())).mean

    def is_baseline(self, run: RunSummary) -> bool:
        """Whether the run is itself what others are compared with."""
        members = [self.run] if self.run else self.configuration.runs if self.configuration else []
        return any(member.name == run.name for member in members)

    def gain(self, measure: Measure, run: RunSummary) -> float | None:
        """Points of a run's score over its reference; None for the baseline itself."""
        score, reference = measure.score(run), self.reference(measure, run)
        if score is None or reference is None or self.is_baseline(run):
            return None
        return score - reference

    def gains(self, measure: Measure, configuration: Configuration) -> Estimate | None:
        """Mean and interval of the runs' differences.

        Against a configuration of several runs, the interval is of the differences of pairs with equal seeds;
        without such pairs there is none.
        """
        runs = [run for run in configuration.runs if run.name in measure.values(configuration)]
        gains = [gain for run in runs if (gain := self.gain(measure, run)) is not None]
        if not gains:
            return None
        result = estimate(gains)
        if self.configuration is not None and not self._is_paired(measure, runs):
            return Estimate(result.mean, None, result.count)
        return result

    def _is_paired(self, measure: Measure, runs: Sequence[RunSummary]) -> bool:
        assert self.configuration is not None
        if self.run is not None:
            return False
        scores = measure.values(self.configuration)
        seeds = {run.recipe.seed for run in self.configuration.runs if run.name in scores}
        return all(run.recipe.seed in seeds for run in runs)


def find_baseline(name: str | None, runs: Sequence[RunSummary], groups: Sequence[Configuration]) -> Baseline:
    """The baseline of this name: a configuration, a run, or a row of the probe tables; None is the twin.

    Raises UserError for a name that is none of them.
    """
    if name is None:
        return Baseline()
    for configuration in groups:
        if configuration.name == name:
            return Baseline(configuration=configuration)
        for run in configuration.runs:
            if name in (run.name, str(run.folder)):
                return Baseline(configuration=configuration, run=run)
    rows = {row.name for run in runs for table in run.all_tables for row in table.rows[1:]}
    if name in rows:
        return Baseline(row=name)
    known = [*(group.name for group in groups), *(run.name for run in runs), *rows]
    raise unknown("baseline", name, dict.fromkeys(known))


def reason_for(measure: Measure, run: RunSummary) -> str:
    """Why a run has no score of this measure."""
    if run.name in measure.tables:
        return failure(measure.tables[run.name].rows[0], measure.probe)
    same_probe = any(measure.probe in table.rows[0].scores for table in run.all_tables)
    return "its score is of other data or another split" if same_probe else "not evaluated"
