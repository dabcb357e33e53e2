"""`jepa study run --workers N`: N workers on this machine, each a process with its share of the cores.

Workers write to `DIR/logs/worker-N.log`; this process only says which cells have ended. Workers end when it
does, however it ends: each looks whether its parent is still there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO

from jepa_core.runtime.stop_signals import REQUEUE, Stopped
from jepa_core.study.plan import Study
from jepa_core.study.worker import Say, describe_outcome, read_study, stop_on_signals
from jepa_core.study.worker_states import FINISHED, CellStatus

PARENT = "JEPA_STUDY_PARENT"
"""Environment variable with the process that a worker ends with."""
JEPA = (sys.executable, "-m", "jepa_core")
"""The `jepa` command, run by this Python, wherever the command itself may lie."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the cells."""


def run_workers(study: Study, words: Sequence[str], count: int, threads: int, say: Say) -> list[int]:
    """Starts `count` processes of `jepa study work WORDS`, waits for them, and returns their exit codes.

    Raises Stopped where a signal asks this process to end; the workers are asked first, and save.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
    command = [*JEPA, "study", "work", *words]
    logs = study.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        workers = []
        for number in range(count):
            log: IO[bytes] = stack.enter_context((logs / f"worker-{number}.log").open("ab"))
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            workers.append(subprocess.Popen(command, env=environment, **streams))  # type: ignore[call-overload]
        say(f"{count} workers of {threads} threads; their logs are {logs}/worker-*.log")
        try:
            with stop_on_signals():
                _wait(study, workers, say)
        except (Stopped, KeyboardInterrupt):
            _end(workers)
            raise
        return [worker.wait() for worker in workers]


def _wait(study: Study, workers: Sequence[subprocess.Popen[bytes]], say: Say) -> None:
    """Says what has ended until all workers have."""
    known: set[str] = {status.cell.id for status in read_study(study)[1] if _has_ended(status)}
    while True:
        over = all(worker.poll() is not None for worker in workers)
        statuses = read_study(study)[1]
        for status in statuses:
            if _has_ended(status) and status.cell.id not in known:
                known.add(status.cell.id)
                text = describe_outcome(study, status.outcome) if status.outcome else status.error
                say(f"{status.cell.id}: {text}  ({len(known)} of {len(statuses)})")
        if over:
            return
        time.sleep(LOOK_EVERY)


def _has_ended(status: CellStatus) -> bool:
    return status.state in FINISHED or status.state in ("failed", "stopped")


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks the workers to save and end, and waits for that."""
    for worker in workers:
        with suppress(ProcessLookupError):
            worker.send_signal(signal.SIGTERM)
    for worker in workers:
        worker.wait()


def end_with_parent() -> None:
    """Asks this process to save and end once the process that started it is gone."""
    parent = os.environ.get(PARENT)
    if parent is None or not hasattr(os, "getppid"):
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="study-parent", daemon=True).start()


def exit_code(statuses: Sequence[CellStatus]) -> int:
    """0 where every cell has a result, 1 where one has failed, 75 where some are still to be done."""
    states = {status.state for status in statuses}
    if states & {"failed", "stopped"}:
        return 1
    return 0 if states <= {*FINISHED} else REQUEUE
