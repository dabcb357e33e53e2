"""Numbers, scores and events as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from jepa_core.evaluate.table import EvalResult, Row, headline
from jepa_core.report.cost import device_hours
from jepa_core.report.summary import RunSummary
from jepa_core.runs.initial_weights import EVENT, describe_initial_weights

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
LISTED = 12
"""Events of one kind that are listed; of more, the first."""
LONGEST = 2000
"""Characters of one event that are shown."""
NOT_COMPUTED = "not computed"
NOT_FINITE = "the score was not finite, as it is where an encoder has diverged"


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


def percent(row: Row, probe: str) -> float | None:
    """A probe's headline score of a row in percent, None where it is not finite."""
    value = row.scores[probe][headline(row, probe)]
    return 100 * value if math.isfinite(value) else None


def standard_error(row: Row, probe: str) -> float | None:
    """One standard error of that score in percentage points, where it is known."""
    value = row.scores[probe].get(f"{headline(row, probe)}_se")
    return 100 * value if value is not None and math.isfinite(value) else None


def failure(row: Row, probe: str) -> str:
    """Why a row's score could not be computed."""
    return row.failures.get(probe, NOT_FINITE)


def gain(table: EvalResult, row: Row, probe: str) -> float | None:
    """Percentage points of a row's score over the table's baseline; None for the baseline, or where one of
    the two is not finite."""
    points = table.gain(row.name, probe)
    return points if points is not None and math.isfinite(points) else None


def label(probe: str, task: str | None = None) -> str:
    """A probe's name in a sentence, after that of its task where there are several."""
    name = {"knn": "kNN", "linear": "linear"}.get(probe, probe)
    return f"{task}, {name}" if task else name


def steps(run: RunSummary) -> str:
    """`300 steps`, `120 of 300 steps`."""
    total = run.total_steps
    count = f"{run.steps:,}" if total in (None, run.steps) else f"{run.steps:,} of {total:,}"
    return f"{count} steps"


def headline_of(run: RunSummary) -> str:
    """The result in one line, for the top of the page."""
    parts = [*(_scores(table) for table in run.tables), _table_step(run), *_training(run)]
    return "; ".join(part for part in parts if part) + "."


def _scores(table: EvalResult) -> str:
    """The scores of the first row; where they were taken and the baseline stand behind the first one."""
    row, where = table.rows[0], f" on {table.held_out_images:,} {table.split} {table.unit}"
    over = f" over the {table.baseline}"
    parts = []
    for probe in row.scores:
        score, points = percent(row, probe), gain(table, row, probe)
        value = NOT_COMPUTED if score is None else f"{score:.1f} %"
        difference = "" if points is None else f", {points:+z.1f}{over}"
        parts.append(f"{label(probe, table.task)} {value}{where}{difference}")
        where = over = ""
    return "; ".join(parts)


def _table_step(run: RunSummary) -> str:
    """The step of the scores, where the run has gone on since."""
    if not run.table_is_older or run.evaluation is None or not run.evaluation.rows[0].scores:
        return ""
    return f"these scores are of step {run.evaluation.step:,}, older than the run's step {run.steps:,}"


def _training(run: RunSummary) -> Iterator[str]:
    if not run.was_trained:
        yield f"{run.state}, not trained here" if run.import_source else "imported weights, not trained here"
        return
    took = f" in {duration(run.seconds)}" if run.seconds else ""
    state = "" if run.state == "finished" else f", {run.state}"
    yield f"{steps(run)}{took}{state}"
    if run.events:
        count = len(run.alarms)
        yield "no alarms" if not count else f"{count} alarm{'s' if count > 1 else ''}"


def facts(run: RunSummary, flops: float | None) -> list[tuple[str, str]]:
    """What was run, where, and what it cost: (name, text), those that are known."""
    start, recipe = run.start, run.recipe
    texts = {
        "Name": run.labels.name,
        "Tags": ", ".join(run.labels.tags),
        "Note": run.labels.note,
        "State": run.state,
        "Model": _model(run),
        "Started from": _beginnings(run),
        "Data": start.get("data", recipe.data.name),
        "Training": _amount(run) if run.was_trained else "",
        "Time": _time(run),
        "Cost": _cost(run, flops),
        "Machine": _machine(start),
        "Software": _software(start),
        "Code": _code(start),
        "Command": start.get("command", ""),
    }
    return [(name, text) for name, text in texts.items() if text]


def _model(run: RunSummary) -> str:
    count = run.start.get("parameters")
    trained = f", {count / 1e6:.2f} M trained parameters" if count else ""
    return f"{run.recipe.encoder.name}{trained}"


def _beginnings(run: RunSummary) -> str:
    """The weights of elsewhere that the run started with, and their hashes."""
    events = [event for event in run.events if event["kind"] == EVENT]
    return "; ".join(describe_initial_weights(event) for event in events)


def _amount(run: RunSummary) -> str:
    size = run.start.get("images")
    epochs = f", {run.images / size:.3g} passes over {size:,} images" if size else ""
    return f"{steps(run)} of {run.recipe.train.batch_size:,} images{epochs}"


def _time(run: RunSummary) -> str:
    """Wall-clock times: another busy process on the machine lengthens them."""
    parts = []
    if run.wall_seconds:
        parts.append(f"{duration(run.wall_seconds)} wall clock")
    if run.cpu_seconds:
        parts.append(f"{duration(run.cpu_seconds)} CPU time")
    if run.training_seconds:
        alone = " of training steps" if parts else " of training steps (the whole time was not recorded)"
        parts.append(f"{duration(run.training_seconds)}{alone}")
    if run.images_per_s:
        parts.append(f"{run.images_per_s:,.0f} images/s by the wall clock")
    times = ", ".join(parts)
    return f"{times}; {run.busy_note}" if times and run.busy_note else times


def _cost(run: RunSummary, flops: float | None) -> str:
    parts = []
    hours = device_hours(run)
    if hours:
        parts.append(f"{hours[0]:.2g} {hours[1]} by the wall clock")
    if flops and run.images:
        parts.append(f"{si(flops, 'FLOP')} an image, {si(flops * run.images, 'FLOP')} in all")
    return "; ".join(parts)


def _machine(start: Mapping[str, Any]) -> str:
    environment = start.get("environment")
    if not environment:
        return ""
    cpu = environment["cpu"]
    parts = [str(gpu["name"]) for gpu in environment["gpus"]] + [f"{cpu['model']}, {cpu['cores']} cores"]
    if environment.get("memory_gib"):
        parts.append(f"{environment['memory_gib']:.0f} GiB")
    used = (
        f"ran on {start['device']} in {start['precision']}" if {"device", "precision"} <= start.keys() else ""
    )
    if start.get("processes", 1) > 1:
        used += f", {start['processes']} processes"
    return ", ".join(filter(None, (*parts, used)))


def _software(start: Mapping[str, Any]) -> str:
    environment = start.get("environment")
    if not environment:
        return ""
    named = [f"{name} {version}" for name, version in environment["versions"].items() if version]
    return ", ".join((*named, environment["platform"]))


def _code(start: Mapping[str, Any]) -> str:
    """The commit of the folder that the run was started in."""
    git = start.get("environment", {}).get("git")
    return f"commit {git['commit'][:12]}{', with changes on top' if git['dirty'] else ''}" if git else ""


def events(listed: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(time, step, kind, facts) of events; of a kind with very many, the first."""
    rows, counts = [], dict.fromkeys((event["kind"] for event in listed), 0)
    for event in listed:
        counts[event["kind"]] += 1
        if counts[event["kind"]] <= LISTED:
            when = str(event.get("time", "")).replace("T", " ").partition("+")[0]
            text = _event_text(event)
            text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
            rows.append((when, f"{event['step']:,}", event["kind"].replace("_", " "), text))
    more = [f"{count - LISTED} more of the kind {kind}" for kind, count in counts.items() if count > LISTED]
    return rows + [("", "", "…", text) for text in more]


def _event_text(event: Mapping[str, Any]) -> str:
    if event["kind"] == "started":
        return f"{'again: ' if event.get('resumed') else ''}{event.get('command', '')}"
    if event["kind"] == "stopped":
        took = f" after {duration(event['seconds'])}" if "seconds" in event else ""
        return f"{event.get('why', '')}{took}"
    if event["kind"] == EVENT:
        return describe_initial_weights(event)
    rest = [value for key, value in event.items() if key not in ("time", "kind", "step")]
    return "; ".join(", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in rest)
