"""Several runs side by side: what differs between their recipes, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jepa_core.evaluate.table import EvalResult, headline
from jepa_core.report.cost import device_hours
from jepa_core.report.settings_table import differences
from jepa_core.report.summary import RunSummary
from jepa_core.report.text import duration, label

Row = tuple[str, list[str]]
"""A name, and a text for each run."""


def outcomes(stories: Sequence[RunSummary]) -> list[Row]:
    """How far, how fast, how good; scores with the difference to the first run in brackets."""
    rows = [
        _row("state", stories, lambda s: s.state),
        _row("steps", stories, lambda s: f"{s.steps:,}" if s.trained else None),
        _row("time", stories, lambda s: duration(s.seconds) if s.seconds else None),
        _row("images/s", stories, lambda s: f"{s.images_per_s:,.0f}" if s.images_per_s else None),
        _row("cost", stories, _cost),
        ("last loss", _numbers([s.last("loss") for s in stories], "{:.4f}", "{:+z.4f}")),
        ("prediction retrieval, %", _numbers([_percent(s.last("retrieval")) for s in stories])),
        ("RankMe of the last batch", _numbers([s.last("rankme") for s in stories])),
        *(row for task, probe in _probes(stories) for row in _scores(stories, task, probe)),
        _row("alarms", stories, lambda s: str(len(s.alarms)) if s.events else None),
    ]
    return [(name, cells) for name, cells in rows if set(cells) != {"–"}]


def choices_that_differ(stories: Sequence[RunSummary]) -> list[Row]:
    """The settings in which the runs differ."""
    return differences([story.recipe for story in stories])


def _row(name: str, stories: Sequence[RunSummary], say: Callable[[RunSummary], str | None]) -> Row:
    return name, [say(story) or "–" for story in stories]


def _cost(story: RunSummary) -> str | None:
    hours = device_hours(story)
    return f"{hours[0]:.2g} {hours[1]}" if hours else None


def _numbers(values: Sequence[float | None], plain: str = "{:.1f}", change: str = "{:+z.1f}") -> list[str]:
    """Each value, and behind it how much more it is than the first run's."""
    first, texts = values[0], []
    for number, value in enumerate(values):
        if value is None:
            texts.append("–")
        elif number == 0 or first is None:
            texts.append(plain.format(value))
        else:
            texts.append(f"{plain.format(value)} ({change.format(value - first)})")
    return texts


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _tables(story: RunSummary) -> Sequence[EvalResult]:
    return story.evaluation.tables if story.evaluation else ()


def _probes(stories: Sequence[RunSummary]) -> list[tuple[str | None, str]]:
    tables = [table for story in stories for table in _tables(story)]
    return list(dict.fromkeys((table.task, probe) for table in tables for probe in table.rows[0].scores))


def _scores(stories: Sequence[RunSummary], task: str | None, probe: str) -> list[Row]:
    """A probe's score in %, and its points over the run's own twin."""
    scores: list[float | None] = []
    gains: list[float | None] = []
    for story in stories:
        asked = (t for t in _tables(story) if t.task == task and probe in t.rows[0].scores)
        table = next(asked, None)
        row = table.rows[0] if table else None
        scores.append(100 * row.scores[probe][headline(row, probe)] if row else None)
        gains.append(table.gain(row.name, probe) if table and row else None)
    over = [f"{gain:+z.1f}" if gain is not None else "–" for gain in gains]
    name = label(probe, task)
    return [(f"{name}, %", _numbers(scores)), (f"{name}, points over the random twin", over)]
