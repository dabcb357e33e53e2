"""Writes what a study found: study.json, cells.csv, the page with its pictures, the table in three forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jepa_core._version import __version__
from jepa_core.errors import UserError
from jepa_core.report.text import duration
from jepa_core.runs.metrics_file import METRICS, read_metrics
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.study.charts import Chart, Logs, arm_colour, charts
from jepa_core.study.plan import Study
from jepa_core.study.results import StudyResult, summarise, write_results
from jepa_core.study.tables import rows, to_csv, to_latex, to_markdown
from jepa_core.study.words import caveats, sentence
from jepa_core.study.worker import read_study
from jepa_core.study.worker_states import CellStatus


def write_study_report(study: Study, out: Path | None = None) -> Path:
    """Writes the report of a study as it is now and returns the page's path.

    Beside the page, in a folder of its name without suffix: the figures as PNG, the table as CSV, LaTeX and
    Markdown. Raises UserError for a study that cannot be, and where the files cannot be written.
    """
    page = out or study.folder / "report.html"
    if page.suffix != ".html" or page.is_dir():
        raise UserError(f"setting '--out' is {str(page)!r}; expected the name of a file that ends with .html")
    if not study.folder.is_dir():
        raise UserError(f"{str(study.folder)!r} does not exist; `jepa study run` makes it")
    result = summarise(*read_study(study))
    write_results(result)
    try:
        drawn = charts(result, _logs(result))
        _write_files(page.with_suffix(""), result, drawn)
        atomic_write(page, render(result, drawn))
    except OSError as error:
        raise UserError(f"the report {str(page)!r} cannot be written: {error.strerror}") from None
    return page


def _write_files(folder: Path, result: StudyResult, drawn: Sequence[Chart]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for chart in drawn:
        atomic_write(folder / f"{chart.name}.png", chart.png())
    for suffix, text in (("csv", to_csv(result)), ("tex", to_latex(result)), ("md", to_markdown(result))):
        atomic_write(folder / f"arms.{suffix}", text)


def render(result: StudyResult, drawn: Sequence[Chart]) -> str:
    """The page as text: one file that fetches nothing."""
    loader = PackageLoader("jepa_core.study")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = PackageLoader("jepa_core.report").get_source(environment, "style.css")[0]
    study = result.study
    return environment.get_template("study.html").render(
        study=study,
        settings=study.settings,
        style=style,
        arms=[
            {"name": arm.arm.name, "text": sentence(result, arm), "colour": arm_colour(place)}
            for place, arm in enumerate(result.arms)
        ],
        sets=[(arm.arm.name, arm.arm.overrides) for arm in result.arms],
        caveats=caveats(result),
        charts=[{"title": c.title, "says": c.says, "svg": c.svg()} for c in drawn],
        table=rows(result),
        across=[(arm.arm.name, arm.across) for arm in result.arms if arm.across],
        bad=[s for s in result.cells if s.state not in ("done", "waiting", "running")],
        facts=_facts(result),
        version=__version__,
    )


def _facts(result: StudyResult) -> list[tuple[str, str]]:
    """Hours, machines, commits and the like: (name, text), those that are known."""
    ended = [status.outcome for status in result.cells if status.outcome]
    settings = result.study.settings
    counts = Counter(status.state for status in result.cells)
    training = sum(outcome["train_seconds"] for outcome in ended)
    processor = sum(outcome["cpu_seconds"] for outcome in ended)
    scoring = sum(outcome.get("eval_seconds", 0.0) for outcome in ended)
    facts = {
        "Recipe": f"{settings.recipe} {' '.join(settings.set)}",
        "Metric": f"{settings.metric} on the {settings.split} split",
        "Cells": ", ".join(f"{count} {state}" for state, count in counts.items()),
        "Training": f"{duration(training)} of workers, {duration(processor)} of CPU",
        "Evaluation": duration(scoring) if scoring else "",
        "Machines": _list_counts(f"{o['host']} ({o['device']})" for o in ended),
        "Commits": _list_counts(
            f"{o['commit'][:12]}{' with changes on top' if o['dirty'] else ''}" for o in ended if o["commit"]
        ),
    }
    return [(name, text) for name, text in facts.items() if text.strip()]


def _list_counts(texts: Any) -> str:
    counts = Counter(texts)
    return "; ".join(f"{text}: {count} cells" if len(counts) > 1 else text for text, count in counts.items())


def _logs(result: StudyResult) -> Logs:
    """The training logs of every arm's finished cells that lie here."""
    logs: dict[str, list[Any]] = {arm.arm.name: [] for arm in result.arms}
    for status in result.cells:
        if status.outcome:
            logs[status.cell.arm].append(_read_log(result.study, status))
    return {name: cells for name, cells in logs.items() if any(cells)}


def _read_log(study: Study, status: CellStatus) -> list[dict[str, Any]]:
    try:
        return read_metrics(study.folder_of(status.cell) / METRICS)
    except UserError:  # a damaged log costs its curve, not the report
        return []
