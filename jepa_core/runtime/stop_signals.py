"""Signals that stop a run: SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 end it after its step, with a checkpoint.

Schedulers send SIGTERM, SIGUSR1 or (submitit) SIGUSR2 before they take a machine away; `jepa train` then
exits with REQUEUE, on which they start it again. A second SIGINT (Ctrl-C) ends the process at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

REQUEUE = 75
"""Exit code of a run that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop by a signal. Its checkpoint is written."""


class StopSignals:
    """A context in which the signals are stored in `asked` instead of ending the process.

    Only the main thread may handle signals: entered in another, it stores nothing.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """The first signal's name."""
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._store) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _store(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or signal.Signals(number).name
