"""The state of a study's cells, from what the ledger knows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jepa_core.study.cell_run import is_scored_alike
from jepa_core.study.ledger import VANISHED, Ledger, Record
from jepa_core.study.plan import Cell, Study

State = Literal["done", "collapsed", "diverged", "failed", "stopped", "running", "waiting"]
"""Of a cell. `stopped`: its arm is, by an error of the user's or by the same error in two cells."""

FINISHED = ("done", "collapsed", "diverged")


@dataclass
class CellStatus:
    """What is known of a cell, in the words of `jepa study status`."""

    cell: Cell
    record: Record
    state: State
    error: str = ""

    @property
    def outcome(self) -> Mapping[str, Any]:
        """What came of it, or an empty table."""
        return self.record.outcome or {}


def read_status(study: Study, cells: Sequence[Cell], ledger: Ledger) -> list[CellStatus]:
    """The state of every cell; only reads."""
    records = ledger.records((cell.id, cell.identity) for cell in cells)
    statuses = [_status(study, cell, records[cell.id]) for cell in cells]
    stopped = _stopped_arms(statuses)
    for status in statuses:
        if status.state == "waiting" and status.cell.arm in stopped:
            status.state, status.error = "stopped", stopped[status.cell.arm]
    return statuses


def _status(study: Study, cell: Cell, record: Record) -> CellStatus:
    outcome = record.outcome
    if outcome is not None and is_scored_alike(study, cell.recipe, outcome):
        return CellStatus(cell, record, outcome["state"])
    if record.running:
        return CellStatus(cell, record, "running")
    if record.user_error:
        return CellStatus(cell, record, "failed", record.user_error)
    if len(record.errors) > study.settings.retries:
        return CellStatus(cell, record, "failed", record.errors[-1])
    if record.workers_lost >= VANISHED:
        error = f"its worker vanished {record.workers_lost} times at the same step"
        return CellStatus(cell, record, "failed", error)
    return CellStatus(cell, record, "waiting")


def _stopped_arms(cells: Sequence[CellStatus]) -> dict[str, str]:
    """Arms in which no further cell is started, and why."""
    stopped: dict[str, str] = {}
    seen: dict[tuple[str, str], str] = {}
    for status in cells:
        arm = status.cell.arm
        if status.record.user_error and status.state == "failed":
            stopped.setdefault(arm, status.record.user_error)
        for error in status.record.errors if status.state not in FINISHED else ():
            first_cell = seen.setdefault((arm, error), status.cell.id)
            if first_cell != status.cell.id:
                stopped.setdefault(arm, f"the same error in two cells: {error}")
    return stopped
