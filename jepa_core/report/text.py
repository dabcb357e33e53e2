"""Numbers and events as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from jepa_core.evaluate.table import EvalResult, headline
from jepa_core.report.cost import device_hours
from jepa_core.report.summary import RunSummary

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
EACH = 12
"""Events of one kind that are listed; of more, the first."""


def duration(seconds: float) -> str:
    """`48 s`, `4 min 2 s`, `3 h 12 min`, `2 d 5 h`."""
    total = round(seconds)
    sizes = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (small, part) in pairwise(sizes):
        if total >= size:
            rest = total % size // part
            return f"{total // size} {unit} {rest} {small}" if rest else f"{total // size} {unit}"
    return f"{total} s"


def si(value: float, unit: str) -> str:
    """`64.8 MFLOP`: three digits and a prefix."""
    power = 0
    while value >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {PREFIXES[power]}{unit}"


def steps(story: RunSummary) -> str:
    """`300 steps`, `120 of 300 steps`."""
    total = story.total_steps
    some = f"{story.steps:,}" if total in (None, story.steps) else f"{story.steps:,} of {total:,}"
    return f"{some} steps"


def headline_of(story: RunSummary) -> str:
    """The result in one line, for the top of the page."""
    tables = story.evaluation.tables if story.evaluation else ()
    parts = [*map(_score, tables), *_training(story)]
    return "; ".join(part for part in parts if part) + "."


def _score(result: EvalResult) -> str:
    if not result.rows[0].scores:
        return ""
    row, place = result.rows[0], f" on {result.held_out_images:,} {result.split} {result.unit}"
    over = f" over the {result.baseline}"
    said = []
    for probe in row.scores:
        score, gain = 100 * row.scores[probe][headline(row, probe)], result.gain(row.name, probe)
        more = "" if gain is None else f", {gain:+z.1f}{over}"
        said.append(f"{label(probe, result.task)} {score:.1f} %{place}{more}")
        place = over = ""
    return "; ".join(said)


def label(probe: str, task: str | None = None) -> str:
    """A probe's name in a sentence, after that of its task where there are several."""
    name = {"knn": "kNN", "linear": "linear"}.get(probe, probe)
    return f"{task}, {name}" if task else name


def _training(story: RunSummary) -> Iterator[str]:
    if not story.trained:
        yield "imported weights, not trained here"
        return
    took = f" in {duration(story.seconds)}" if story.seconds else ""
    state = "" if story.state == "finished" else f", {story.state}"
    yield f"{steps(story)}{took}{state}"
    if story.events:
        count = len(story.alarms)
        yield "no alarms" if not count else f"{count} alarm{'s' if count > 1 else ''}"


def facts(story: RunSummary, flops: float | None) -> list[tuple[str, str]]:
    """What was run, where, and what it cost: (name, text), those that are known."""
    start, recipe = story.start, story.recipe
    said = {
        "State": story.state,
        "Model": _model(story),
        "Data": start.get("data", recipe.data.name),
        "Training": _amount(story) if story.trained else "",
        "Time": _time(story),
        "Cost": _cost(story, flops),
        "Machine": _machine(start),
        "Software": _software(start),
        "Code": _code(start),
        "Command": start.get("command", ""),
    }
    return [(name, text) for name, text in said.items() if text]


def _model(story: RunSummary) -> str:
    count = story.start.get("parameters")
    trained = f", {count / 1e6:.2f} M trained parameters" if count else ""
    return f"{story.recipe.encoder.name}{trained}"


def _amount(story: RunSummary) -> str:
    size = story.start.get("images")
    epochs = f", {story.images / size:.3g} passes over {size:,} images" if size else ""
    return f"{steps(story)} of {story.recipe.train.batch_size:,} images{epochs}"


def _time(story: RunSummary) -> str:
    parts = []
    if story.wall_seconds:
        parts.append(duration(story.wall_seconds))
    if story.training_seconds:
        alone = " of training steps" if parts else " of training steps (the whole time was not recorded)"
        parts.append(f"{duration(story.training_seconds)}{alone}")
    if story.images_per_s:
        parts.append(f"{story.images_per_s:,.0f} images/s")
    return ", ".join(parts)


def _cost(story: RunSummary, flops: float | None) -> str:
    parts = []
    hours = device_hours(story)
    if hours:
        parts.append(f"{hours[0]:.2g} {hours[1]}")
    if flops and story.images:
        parts.append(f"{si(flops, 'FLOP')} an image, {si(flops * story.images, 'FLOP')} in all")
    return "; ".join(parts)


def _machine(start: Mapping[str, Any]) -> str:
    where = start.get("environment")
    if not where:
        return ""
    cpu = where["cpu"]
    parts = [gpu["name"] for gpu in where["gpus"]] + [f"{cpu['model']}, {cpu['cores']} cores"]
    if where["memory_gib"]:
        parts.append(f"{where['memory_gib']:.0f} GiB")
    used = f"ran on {start['device']} in {start['precision']}" if "device" in start else ""
    if start.get("processes", 1) > 1:
        used += f", {start['processes']} processes"
    return ", ".join(filter(None, (*parts, used)))


def _software(start: Mapping[str, Any]) -> str:
    where = start.get("environment")
    if not where:
        return ""
    named = [f"{name} {version}" for name, version in where["versions"].items() if version]
    return ", ".join((*named, where["platform"]))


def _code(start: Mapping[str, Any]) -> str:
    """The commit of the folder that the run was started in."""
    git = start.get("environment", {}).get("git")
    return f"commit {git['commit'][:12]}{', with changes on top' if git['dirty'] else ''}" if git else ""


def events(listed: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(time, step, kind, facts) of events; of a kind with very many, the first."""
    rows, seen = [], dict.fromkeys((event["kind"] for event in listed), 0)
    for event in listed:
        seen[event["kind"]] += 1
        if seen[event["kind"]] <= EACH:
            when = str(event.get("time", "")).replace("T", " ").partition("+")[0]
            rows.append((when, f"{event['step']:,}", event["kind"].replace("_", " "), _what(event)))
    more = [f"{count - EACH} more of the kind {kind}" for kind, count in seen.items() if count > EACH]
    return rows + [("", "", "…", text) for text in more]


def _what(event: Mapping[str, Any]) -> str:
    if event["kind"] == "started":
        return f"{'again: ' if event.get('resumed') else ''}{event.get('command', '')}"
    if event["kind"] == "stopped":
        took = f" after {duration(event['seconds'])}" if "seconds" in event else ""
        return f"{event.get('why', '')}{took}"
    rest = [value for key, value in event.items() if key not in ("time", "kind", "step")]
    return "; ".join(", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in rest)
