"""What `jepa study` prints: lines, tables, and plain values for `--json`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from jepa_core.cli.console import err, out
from jepa_core.errors import printable

if TYPE_CHECKING:
    from jepa_core.study.plan import Study
    from jepa_core.study.predict import ArmPlan
    from jepa_core.study.worker_states import CellStatus


def plan_costs(plan: ArmPlan) -> tuple[str, ...]:
    """Steps, milliseconds a step, cells to do and hours."""
    return (
        f"{plan.steps:,}",
        f"{1000 * plan.step_seconds:.1f}",
        str(plan.to_do),
        f"{plan.seconds / 3600:.2g}",
    )


def status_row(status: CellStatus, study: Study) -> tuple[str, ...]:
    """A cell in the table of `jepa study status`."""
    score = status.outcome.get("scores", {}).get(study.settings.metric)
    seconds = status.outcome.get("train_seconds")
    return (
        status.cell.id,
        status.state,
        "" if score is None else f"{score:.4g}",
        "" if seconds is None else f"{seconds:.0f}",
        printable(status.error or status.outcome.get("note", "")),
    )


def show_states(statuses: list[CellStatus], as_json: bool) -> None:
    """How many cells are in which state, and why arms are incomplete."""
    counts = Counter(status.state for status in statuses)
    if as_json:
        cells = {status.cell.id: status_facts(status) for status in statuses}
        print(json.dumps({"cells": cells, "states": dict(counts)}, indent=2, ensure_ascii=False))
        return
    out.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)
    for arm, error in dict.fromkeys((s.cell.arm, s.error) for s in statuses if s.error):
        err.print(
            printable(f"arm {arm}: {error}; --retry tries again"),
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def status_facts(status: CellStatus) -> dict[str, Any]:
    """A cell as plain values."""
    facts = {"identity": status.cell.identity, "error": status.error}
    return {**status.outcome, **facts, "state": status.state}


def say(text: str) -> None:
    """A line on standard output."""
    out.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def say_on_error(text: str) -> None:
    """A line on standard error, where standard output is JSON."""
    print(printable(text), file=sys.stderr)
