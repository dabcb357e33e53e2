"""A worker: claims cells and does them until nothing is left. Started as often, and wherever, as wished.

Cells are done seed by seed, so that a study that is cut short has whole pairs. A cell that failed is tried
again, last by the worker that it failed with. An error of the user's, or the same error in two cells, stops
the arm; the others go on.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.environment import cores
from jepa_core.runtime.stop_signals import SIGNALS, Stopped
from jepa_core.study.cell_run import BrokenCell, run_cell
from jepa_core.study.ledger import ClaimLost, Ledger
from jepa_core.study.plan import Cell, Study
from jepa_core.study.pruning import prune_trials
from jepa_core.study.search import advance
from jepa_core.study.store import (
    check_folder,
    check_study,
    fingerprint,
    open_ledger,
    read_plan,
    resolve_study,
    write_plan,
)
from jepa_core.study.worker_states import FINISHED, CellStatus, read_status

POLL = 2.0
"""Seconds between two looks for a cell while all that are left are other workers'."""

Say = Callable[[str], None]
Observers = Callable[[], list[object]]


@dataclass
class Worker:
    """One process's work on a study."""

    study: Study
    cells: Sequence[Cell]
    ledger: Ledger
    say: Say
    observers: Observers
    failed_here: set[str] = field(default_factory=set)
    lost: int = 0

    def work(self, wait: bool = True) -> None:
        """Does cells until nothing is left; `wait`: also until other workers have done theirs."""
        own = fingerprint(self.study)
        while True:
            self._check_plan(own)
            self._grow()
            statuses = read_status(self.study, self.cells, self.ledger)
            if prune_trials(self.study, self.ledger, statuses):
                continue
            waiting = [status.cell for status in statuses if status.state == "waiting"]
            waiting.sort(key=lambda cell: cell.id in self.failed_here)
            if waiting and any(map(self._try, waiting)):
                continue
            if not waiting and advance(self.study, self.ledger, statuses):
                continue
            running = any(status.state == "running" for status in statuses)
            if not waiting and not (running and wait):
                return
            time.sleep(POLL)

    def _grow(self) -> None:
        """Takes in the arms that a search has added."""
        if self.study.settings.search is not None:
            self.study, self.cells = resolve_study(self.study, self.ledger)
            write_plan(self.study, self.cells)

    def _check_plan(self, own: str) -> None:
        plan = read_plan(self.study.folder)
        if plan is not None and plan.get("fingerprint") != own:
            raise UserError(
                "the study's file was changed, and another worker goes by the new one; start again"
            )

    def _try(self, cell: Cell) -> bool:
        """Claims a cell and does it; False where another worker was first."""
        claim = self.ledger.claim(cell.id, cell.identity)
        if claim is None:
            return False
        self.say(f"{cell.id}: started")
        try:
            outcome = run_cell(self.study, cell, self.ledger, claim, self.observers)
        except BrokenCell as error:
            self.failed_here.add(cell.id)
            self.say(f"{cell.id}: {error.error}")
            if error.ended == "stopped":
                time.sleep(POLL)
        except ClaimLost:
            self.say(f"{cell.id}: another worker has taken it over")
        else:
            self.say(f"{cell.id}: {describe_outcome(self.study, outcome)}")
        return True


def describe_outcome(study: Study, outcome: Mapping[str, Any]) -> str:
    """`done, knn.top1 0.484 in 212 s`."""
    metric = study.settings.metric
    score = outcome.get("scores", {}).get(metric)
    text = f", {metric} {score:.4g}" if score is not None else f": {outcome.get('note', '')}"
    return f"{outcome['state']}{text} in {outcome['train_seconds']:.0f} s"


def no_observers() -> list[object]:
    """Core's observers without the progress on the terminal: for workers that nobody watches."""
    from jepa_core.observers.progress_bar import Terminal
    from jepa_core.observers.standard import standard

    return [observer for observer in standard() if not isinstance(observer, Terminal)]


def prepare(study: Study) -> tuple[Study, list[Cell], Ledger]:
    """Resolves a study, checks that its folder is its own, and writes the plan there. Raises UserError."""
    check_study(study)
    if study.settings.claims == "files":
        check_folder(study, study.cells())
    ledger = open_ledger(study)
    with stop_on_signals():
        study, cells = resolve_study(study, ledger)
    check_folder(study, cells)
    write_plan(study, cells)
    return study, cells, ledger


def work(
    study: Study,
    *,
    say: Say = print,
    observers: Observers = no_observers,
    wait: bool = True,
    retry: bool = False,
) -> list[CellStatus]:
    """Works on a study until nothing is left, and returns the state of every cell.

    `retry` forgets what failed. Raises UserError for a study that cannot be, and `Stopped` where a signal
    asked the process to end; what it was at can be gone on with.
    """
    from jepa_core.runtime.malloc import keep_freed_blocks

    keep_freed_blocks()
    set_threads(study)
    study, cells, ledger = prepare(study)
    if retry:
        forget_failures(study, cells, ledger)
    with stop_on_signals():
        worker = Worker(study, cells, ledger, say, observers)
        worker.work(wait)
    return read_status(worker.study, worker.cells, ledger)


def read_study(study: Study) -> tuple[Study, list[CellStatus]]:
    """A study and the state of its cells; only reads. Raises UserError for a study that cannot be, and for
    one whose budget was not measured yet."""
    check_study(study)
    check_folder(study, study.cells())
    ledger = open_ledger(study)
    study, cells = resolve_study(study, ledger, measure=False)
    return study, read_status(study, cells, ledger)


def forget_failures(study: Study, cells: Sequence[Cell], ledger: Ledger) -> None:
    """Lets every cell that failed be tried again."""
    for status in read_status(study, cells, ledger):
        if status.state not in (*FINISHED, "running") and status.record.attempts:
            ledger.forget(status.cell.id, status.cell.identity)


def set_threads(study: Study, workers: int = 1) -> int:
    """Gives torch the threads that each of `workers` processes has, and returns their number."""
    import torch

    shared = torch.get_num_threads() if workers == 1 else max(1, cores() // workers)
    threads = study.settings.threads or shared
    torch.set_num_threads(threads)
    return threads


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """While it is entered, the signals that ask a run to stop raise `Stopped`, outside training too."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
