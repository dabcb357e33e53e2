"""events.jsonl: what happened to a run, one JSON object a line, from its first start to its last stop.

Each line has `time` (UTC, ISO 8601), `kind`, `step` and the facts of that kind: `started` and `stopped`
(one pair a process that worked on the run), `checkpoint_saved`, `checkpoint_damaged`, `alarm`,
`step_skipped`, `recipe_changed`. What is logged at steps stands in metrics.jsonl.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jepa_core.runtime.json_lines import is_count, read_json_lines

EVENTS = "events.jsonl"


def record(folder: Path, kind: str, step: int, **facts: Any) -> None:
    """Appends one event to a run's events.jsonl, as one write, so that threads do not mix their lines."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind, "step": step, **facts}
    text = json.dumps(line, allow_nan=False) + "\n"
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(text)


def read_events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """A run's events of one kind, or all, oldest first.

    Each has a text `kind` and a whole number `step`; a line that has not, or is no JSON object (the
    writing of the last one may have been cut off), is left out.
    """
    events = [line.value for line in read_json_lines(folder / EVENTS) if line.value is not None]
    whole = [event for event in events if isinstance(event.get("kind"), str) and is_count(event.get("step"))]
    return [event for event in whole if kind in (None, event["kind"])]
