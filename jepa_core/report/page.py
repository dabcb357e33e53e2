"""The page: what is known of each run and of all together, filled into the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jepa_core._version import __version__
from jepa_core.plots.curves import COUNTS, STYLES, Log, constants, title
from jepa_core.report import html, text
from jepa_core.report.compared_evaluations import evaluation_comparisons
from jepa_core.report.comparison import (
    FEW,
    Comparison,
    compare,
    configuration_table,
    image_by_image,
    run_table,
    settings_that_differ,
)
from jepa_core.report.curves import AXES, Course, curve_panels
from jepa_core.report.dot_plot import dot_plots
from jepa_core.report.figures import RunFigures
from jepa_core.report.line_chart import swatch
from jepa_core.report.sections import file_name
from jepa_core.report.settings_table import base_of, choices
from jepa_core.report.summary import RunSummary

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy: the page runs no script and fetches nothing, whatever a run's files hold."""

Part = tuple[RunSummary, RunFigures]
"""One run: what its files tell, and its pictures."""


def render(
    parts: Sequence[Part],
    role: str,
    *,
    baseline: str | None = None,
    comparison_only: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """The page as text: one run, or a comparison of several and each of them below it.

    With `comparison_only` the sections of single runs are left out. `notes` say what is missing of the page.
    """
    loader = PackageLoader("jepa_core.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["with_code"] = html.with_code
    environment.filters["headings"] = html.headings
    summaries = [run for run, _ in parts]
    single = len(parts) == 1
    flops = {run.name: figures.flops for run, figures in parts}
    comparison = None if single else compare(summaries, baseline)
    sections = [] if comparison_only and not single else enumerate(parts)
    runs = [_run_values(*part, number, role) for number, part in sections]
    if single:
        runs[0]["notes"] = [*notes, *runs[0]["notes"]]
    page = environment.get_template("page.html").render(
        policy=POLICY,
        title=_title(summaries),
        count=len(parts),
        runs=runs,
        notes=[
            *notes,
            *(f"{run.name}: {note}" for run, figures in parts for note in _all_notes(run, figures)),
        ],
        comparison=_comparison_values(comparison, flops) if comparison else None,
        role=role,
        version=__version__,
    )
    return html.clean(page)


def _title(runs: Sequence[RunSummary]) -> str:
    names = " · ".join(run.name for run in runs[:4])
    return names if len(runs) <= 4 else f"{names} and {len(runs) - 4} more"


def _all_notes(run: RunSummary, figures: RunFigures) -> list[str]:
    return [*run.notes, *figures.notes]


def _run_values(run: RunSummary, figures: RunFigures, number: int, role: str) -> dict[str, Any]:
    """What the template says of one run."""
    base = base_of(run.recipe)
    settings = choices(run.recipe, base)
    return {
        "id": f"run{number}",
        "name": run.name,
        "recipe": run.recipe.name,
        "based": base is not None,
        "headline": text.headline_of(run),
        "facts": text.facts(run, figures.flops),
        "step": figures.step,
        "role": role,
        "held_out": figures.held_out,
        "gallery": figures.gallery,
        "notes": _all_notes(run, figures),
        "probes": [html.probe_table(table) for table in run.tables],
        "evaluations": [html.evaluation_table(table) for table in run.evaluations],
        "other_probes": [html.other_table(table) for table in run.other_evaluations],
        "curves": curve_panels([Course(run.name, [run], 0)], ["step"]),
        "constants": _constants([run.metrics]),
        "sheets": {name: html.sheet_values(sheet) for name, sheet in figures.sheets.items()},
        "sections": [
            {"id": file_name(name), "title": section.title, "text": section.says, "markup": section.markup}
            for name, section in figures.sections.items()
        ],
        "map": html.map_values(figures.points, figures.classes) if figures.points is not None else None,
        "alarms": [event.get("text", "") for event in run.alarms],
        "events": text.events(run.events),
        "changed": [setting for setting in settings if setting.origin == "run"],
        "settings": settings,
    }


def _constants(logs: Sequence[Log]) -> str:
    """The metrics that had one value throughout, as text."""
    same = {key: value for key, value in constants(logs).items() if value or key not in COUNTS}
    return ", ".join(f"{title(key)} {value:g}" for key, value in same.items())


def _comparison_values(comparison: Comparison, flops: Mapping[str, float | None]) -> dict[str, Any]:
    """What the template says of all runs together."""
    groups = comparison.configurations
    courses = [Course(group.name, group.runs, group.style, flops[group.runs[0].name]) for group in groups]
    curves = curve_panels(courses)
    settings = settings_that_differ(groups)
    used = {chart["axis"] for panel in curves for chart in panel["charts"]}
    return {
        "baseline": comparison.baseline.label,
        "notes": comparison.notes,
        "plots": dot_plots(comparison),
        "answer": _answer(comparison),
        "image_by_image": image_by_image(comparison),
        "configurations": configuration_table(comparison) if comparison.has_seeds else None,
        "runs": run_table(comparison),
        "evaluations": evaluation_comparisons(groups),
        "settings": settings,
        "differing": [row.name for row in settings.rows] if len(groups) <= FEW else settings.head[1:],
        "curves": curves,
        "axes": [(axis, label) for axis, label in AXES.items() if axis in used],
        "legend": [(group.name, swatch(group.style)) for group in groups[:STYLES]],
        "swatches": {group.style: swatch(group.style) for group in groups},
        "not_drawn": len(groups) - min(len(groups), STYLES),
        "has_bands": comparison.has_seeds,
    }


def _answer(comparison: Comparison) -> str:
    """The comparison in one sentence: the best two by the first score, and their differences."""
    plots = dot_plots(comparison)
    if not plots:
        return ""
    titles = [row["title"] for row in plots[0]["rows"][:2]]
    return f"Best is {'; next is '.join(titles)}."
