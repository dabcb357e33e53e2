"""The tables that compare several runs: runs and configurations in rows, the best first.

A cell is a `Cell`; the template decides how it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jepa_core.evaluate.predictions import compare_runs
from jepa_core.report.configurations import Configuration, configurations, with_styles
from jepa_core.report.cost import device_hours
from jepa_core.report.intervals import Estimate, estimate
from jepa_core.report.scores import Baseline, Measure, find_baseline, measures, reason_for
from jepa_core.report.settings_table import differences
from jepa_core.report.summary import RunSummary
from jepa_core.report.text import NOT_COMPUTED, duration

MISSING = "–"
BASELINE = "baseline"
FEW = 6
"""Configurations up to which they stand in the columns of the table of settings."""


@dataclass
class Cell:
    """One cell of a table."""

    text: str
    spread: str = ""
    """What stands behind the number: `± 0.5`."""
    hint: str = ""
    """Shown on hover: an interval, or why there is no number."""
    best: bool = False
    value: float | None = None

    @property
    def numeric(self) -> bool:
        """Whether the text is set to the right, as numbers are."""
        return self.text[:1] in "+-–0123456789" or self.text in (NOT_COMPUTED, BASELINE)


@dataclass(frozen=True)
class Row:
    """One run or configuration with its cells."""

    name: str
    style: int | None
    """Number of its line in the curves; None for a row that is no run."""
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table with runs or configurations in rows."""

    head: Sequence[str]
    rows: Sequence[Row]
    same: Sequence[str] = ()
    """Facts that are the same in all rows, and no columns therefore."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that is said about several runs together."""

    configurations: Sequence[Configuration]
    measures: Sequence[Measure]
    baseline: Baseline
    notes: Sequence[str] = field(default_factory=list)

    @property
    def has_seeds(self) -> bool:
        """Whether some recipe was run more than once."""
        return any(len(configuration.runs) > 1 for configuration in self.configurations)

    @property
    def runs(self) -> list[RunSummary]:
        """All runs, those of one configuration together, the best configuration first."""
        return [run for configuration in self.configurations for run in configuration.runs]


def compare(runs: Sequence[RunSummary], baseline: str | None = None) -> Comparison:
    """The comparison of runs, sorted by the score that most of them have, the best first.

    `baseline` names a run, a configuration or a row of the probe tables, None the random twin.
    Raises UserError for a baseline that is none of them.
    """
    groups, scored = configurations(runs), measures(runs)
    ordered = with_styles(sorted(groups, key=_by_score(scored)))
    chosen = find_baseline(baseline, runs, ordered)
    return Comparison(ordered, scored, chosen, _notes(ordered, scored, chosen))


def _by_score(scored: Sequence[Measure]) -> Callable[[Configuration], tuple[float, ...]]:
    def key(configuration: Configuration) -> tuple[float, ...]:
        values = [list(measure.values(configuration).values()) for measure in scored]
        return tuple(-estimate(scores).mean if scores else float("inf") for scores in values)

    return key


def _notes(groups: Sequence[Configuration], scored: Sequence[Measure], baseline: Baseline) -> list[str]:
    """What keeps scores from being compared, one sentence each."""
    notes = []
    probes = [(measure.task, measure.probe) for measure in scored]
    if len(set(probes)) < len(probes):
        notes.append(
            "Scores of different splits, data sets or probe settings are not compared: each stands in a "
            "column of its own, and no difference is taken between columns."
        )
    for configuration in groups:
        earlier = {name for measure in scored for name in measure.left_out(configuration)}
        if earlier:
            notes.append(
                f"Left out of the mean of {configuration.name}, as they were evaluated at an earlier step: "
                f"{', '.join(sorted(earlier))}."
            )
    for run in (run for configuration in groups for run in configuration.runs):
        if run.table_is_older and run.evaluation is not None:
            step = f"{run.evaluation.step:,}"
            notes.append(f"{run.name} was evaluated at step {step}; it has reached step {run.steps:,}.")
    if baseline.configuration is not None:
        lacking = [m.label for m in scored if not m.values(baseline.configuration)]
        notes += [f"No differences of {label}: {baseline.label} has no such score." for label in lacking]
    return notes


def configuration_table(comparison: Comparison) -> Table:
    """Configurations in rows: mean scores over seeds and their differences to the baseline."""
    head = ["", "seeds", *(title for m in comparison.measures for title in _titles(m, comparison.baseline))]
    rows = []
    for configuration in comparison.configurations:
        cells = [Cell(str(len(configuration.runs)), hint=f"seeds {configuration.seeds}")]
        for measure in comparison.measures:
            gain = comparison.baseline.gains(measure, configuration)
            cells.append(_mean_cell(measure, configuration))
            cells.append(_gain_cell(gain, comparison, configuration.runs[0]))
        rows.append(Row(configuration.name, configuration.style, cells))
    _mark_best(rows)
    return Table(head, rows)


def run_table(comparison: Comparison) -> Table:
    """Runs in rows: scores with standard errors, then how far, how fast and at what cost they trained."""
    baseline, scored = comparison.baseline, comparison.measures
    texts = {title: {say(run) for run in comparison.runs} for title, say in FACTS.items()}
    facts = {title: say for title, say in FACTS.items() if len(texts[title]) > 1}
    same = [f"{title} {values.pop()}" for title, values in texts.items() if len(values) == 1 and any(values)]
    head = ["", *(title for m in scored for title in _titles(m, baseline)), *facts]
    rows = []
    for configuration in comparison.configurations:
        for run in sorted(configuration.runs, key=_by_run_score(scored)):
            cells = []
            for measure in scored:
                gain = baseline.gain(measure, run)
                estimated = None if gain is None else Estimate(gain, None, 1)
                cells += [_score_cell(measure, run), _gain_cell(estimated, comparison, run)]
            cells += [Cell(say(run) or MISSING) for say in facts.values()]
            rows.append(Row(run.name, configuration.style, cells))
    if not comparison.has_seeds:
        rows.sort(key=_first_value)
    _mark_best(rows)
    return Table(head, rows, same)


def _first_value(row: Row) -> float:
    """The row's first score, negative; rows without one come last."""
    value = row.cells[0].value if row.cells else None
    return float("inf") if value is None else -value


def _by_run_score(scored: Sequence[Measure]) -> Callable[[RunSummary], float]:
    def key(run: RunSummary) -> float:
        scores = [measure.score(run) for measure in scored]
        return -next((score for score in scores if score is not None), float("-inf"))

    return key


def _titles(measure: Measure, baseline: Baseline) -> list[str]:
    return [f"{measure.label}, %", f"over {baseline.label}"]


def _mean_cell(measure: Measure, configuration: Configuration) -> Cell:
    values = list(measure.values(configuration).values())
    if not values:
        return _empty_cell(measure, configuration.runs[0])
    if len(values) == 1:
        run = next(run for run in configuration.runs if run.name in measure.values(configuration))
        return _score_cell(measure, run)
    result = estimate(values)
    hint = f"{_interval(result)} from {len(values)} seeds: {', '.join(f'{v:.1f}' for v in sorted(values))}"
    return Cell(f"{result.mean:.1f}", f"± {result.half:.1f}", hint, value=result.mean)


def _score_cell(measure: Measure, run: RunSummary) -> Cell:
    score, error = measure.score(run), measure.error(run)
    if score is None:
        return _empty_cell(measure, run)
    images = f"one run, {measure.tables[run.name].held_out_images:,} {measure.tables[run.name].unit}"
    spread = "" if error is None else f"± {error:.1f}"
    return Cell(f"{score:.1f}", spread, images + ("; ± one standard error" if spread else ""), value=score)


def _empty_cell(measure: Measure, run: RunSummary) -> Cell:
    text = NOT_COMPUTED if run.name in measure.tables else MISSING
    return Cell(text, hint=reason_for(measure, run))


def _gain_cell(gain: Estimate | None, comparison: Comparison, run: RunSummary) -> Cell:
    if comparison.baseline.is_baseline(run):
        return Cell(BASELINE)
    if gain is None:
        return Cell(MISSING)
    spread = "" if gain.half is None else f"± {gain.half:.1f}"
    return Cell(f"{gain.mean:+z.1f}", spread, _interval(gain) if spread else "", value=gain.mean)


def _interval(result: Estimate) -> str:
    if result.half is None:
        return ""
    return f"95 % t interval {result.mean - result.half:.1f} to {result.mean + result.half:.1f}"


def _mark_best(rows: Sequence[Row]) -> None:
    """Marks the largest value of each column in which rows differ."""
    for column in zip(*(row.cells for row in rows), strict=True):
        values = [cell.value for cell in column if cell.value is not None]
        if len(set(values)) > 1:
            for cell in column:
                cell.best = cell.value == max(values)


def _hours(run: RunSummary) -> str:
    hours = device_hours(run)
    return f"{hours[0]:.2g} {hours[1]}" if hours else ""


def _number(key: str, pattern: str, factor: float = 1.0) -> Callable[[RunSummary], str]:
    def say(run: RunSummary) -> str:
        value = run.last(key)
        return "" if value is None else pattern.format(factor * value)

    return say


FACTS: dict[str, Callable[[RunSummary], str]] = {
    "tags": lambda run: ", ".join(run.labels.tags),
    "seed": lambda run: str(run.recipe.seed),
    "steps": lambda run: f"{run.steps:,}" if run.was_trained else "",
    "state": lambda run: run.state,
    "last loss": _number("loss", "{:.4f}"),
    "prediction retrieval, %": _number("retrieval", "{:.1f}", 100),
    "RankMe of the last batch": _number("rankme", "{:.1f}"),
    "wall-clock time": lambda run: duration(run.seconds) if run.seconds else "",
    "CPU time": lambda run: duration(run.cpu_seconds) if run.cpu_seconds else "",
    "images/s (wall clock)": lambda run: f"{run.images_per_s:,.0f}" if run.images_per_s else "",
    "cost (wall clock)": _hours,
    "busy machine": lambda run: run.busy_note.removeprefix("the machine was busy: "),
    "alarms": lambda run: str(len(run.alarms)) if run.events else "",
}
"""Further columns of a run: what each says, '' where it is not known."""


def image_by_image(comparison: Comparison) -> str:
    """How the best two runs differ on single images, by the first score; '' where their guesses are not kept.

    Only for recipes with one run each: over several seeds, the interval over seeds says more.
    """
    if not comparison.measures:
        return ""
    measure = comparison.measures[0]
    best = [group for group in comparison.configurations if measure.values(group)][:2]
    if len(best) < 2 or any(len(group.runs) > 1 for group in best):
        return ""
    first, second = (group.runs[0] for group in best)
    if any(measure.tables[run.name] not in run.tables for run in (first, second)):
        return ""  # the guesses are of the newest table
    try:
        paired = compare_runs(first.folder, second.folder)
    except Exception:  # a file of the run, which may be missing or damaged in any way
        return ""
    comparison_of_two = paired.get((measure.task, measure.probe))
    if comparison_of_two is None:
        return ""
    return f"Image by image, {measure.label}: {comparison_of_two.sentence(first.name, second.name)}."


def settings_that_differ(groups: Sequence[Configuration]) -> Table:
    """The settings in which recipes differ: configurations in rows, or in columns where they are few."""
    settings = [row for row in differences([group.recipe for group in groups]) if row[0] != "seed"]
    if len(groups) <= FEW:
        rows = [Row(key, None, [Cell(value) for value in values]) for key, values in settings]
        return Table(["", *(group.name for group in groups)], rows if settings else [])
    cells = [[Cell(values[i]) for _, values in settings] for i in range(len(groups))]
    rows = [Row(group.name, group.style, line) for group, line in zip(groups, cells, strict=True)]
    return Table(["", *(key for key, _ in settings)], rows if settings else [])
