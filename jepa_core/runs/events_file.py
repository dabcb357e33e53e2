"""events.jsonl: what happened to a run, one JSON object a line, from its first start to its last stop.

Each line has `time` (UTC, ISO 8601), `kind`, `step` and the facts of that kind: `started` and `stopped`
(one pair a process that worked on the run), `alarm`, `checkpoint_damaged`, `step_skipped`, ….
What is logged at steps stands in metrics.jsonl.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


def record(folder: Path, kind: str, step: int, **facts: Any) -> None:
    """Appends one event to a run's events.jsonl."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind, "step": step, **facts}
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def read_events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """A run's events of one kind, or all, oldest first; a line whose writing was cut off is left out."""
    path = folder / EVENTS
    events = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            events.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return [event for event in events if kind is None or event["kind"] == kind]
