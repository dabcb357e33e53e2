"""The page: what there is to say of each run, put into words and filled into the template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from jepa_core._version import __version__
from jepa_core.plots.curves import COUNTS, SERIES, constants, panels, title
from jepa_core.report import html
from jepa_core.report import text as words
from jepa_core.report.charts import curve_svg
from jepa_core.report.comparison import choices_that_differ, outcomes
from jepa_core.report.figures import RunFigures
from jepa_core.report.settings_table import base_of, choices
from jepa_core.report.summary import RunSummary

Part = tuple[RunSummary, RunFigures]
"""One run: what its files tell, and what there is to see."""


def render(parts: Sequence[Part], role: str) -> str:
    """The page as text."""
    loader = PackageLoader("jepa_core.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["with_code"] = html.with_code
    stories = [story for story, _ in parts]
    return environment.get_template("page.html").render(
        title=" · ".join(story.name for story in stories),
        runs=[_run(story, seen, number, role) for number, (story, seen) in enumerate(parts)],
        comparison=_comparison(stories) if len(stories) > 1 else None,
        role=role,
        version=__version__,
    )


def _run(story: RunSummary, seen: RunFigures, number: int, role: str) -> dict[str, Any]:
    """What the template says of one run."""
    base = base_of(story.recipe)
    settings = choices(story.recipe, base)
    return {
        "id": f"run{number}",
        "name": story.name,
        "recipe": story.recipe.name,
        "based": base is not None,
        "headline": words.headline_of(story),
        "facts": words.facts(story, seen.flops),
        "step": seen.step,
        "role": role,
        "held_out": seen.held_out,
        "gallery": seen.gallery,
        "notes": seen.notes,
        "probes": [html.probe_table(table) for table in story.evaluation.tables] if story.evaluation else [],
        "curves": _curves({story.name: story.metrics}, f"run{number}"),
        "constants": _constants([story.metrics]),
        "sheets": {name: html.sheet(made) for name, made in seen.sheets.items()},
        "sections": [
            {"name": name, "title": drawn.title, "says": drawn.says, "svg": drawn.svg(f"run{number} {name}")}
            for name, drawn in seen.sections.items()
        ],
        "map": html.map_of(seen.points, seen.classes) if seen.points is not None else None,
        "alarms": [event["text"] for event in story.alarms],
        "events": words.events(story.events),
        "changed": [choice for choice in settings if choice.origin == "run"],
        "settings": settings,
    }


def _curves(logs: dict[str, Any], salt: str) -> list[dict[str, str]]:
    drawn = panels(list(logs.values()))
    return [{"title": p.title, "says": p.says, "svg": curve_svg(p, logs, salt)} for p in drawn]


def _constants(logs: Sequence[Any]) -> str:
    """What stayed as it was, in words."""
    same = {key: value for key, value in constants(logs).items() if value or key not in COUNTS}
    return ", ".join(f"{title(key)} {value:g}" for key, value in same.items())


def _comparison(stories: Sequence[RunSummary]) -> dict[str, Any]:
    logs = {story.name: story.metrics for story in stories}
    return {
        "names": list(logs),
        "keys": [(name, f"run{number % len(SERIES)}") for number, name in enumerate(logs)],
        "outcomes": outcomes(stories),
        "choices": choices_that_differ(stories),
        "curves": _curves(logs, "all"),
    }
