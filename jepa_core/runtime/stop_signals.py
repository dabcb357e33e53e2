"""Asking a run to stop: SIGTERM, SIGINT and SIGUSR1 end it after the step it is in, with a checkpoint.

Schedulers send SIGTERM or SIGUSR1 before they take a machine away; `jepa train` then exits with REQUEUE,
on which they start it again. A second SIGINT (Ctrl-C) does not wait.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

REQUEUE = 75
"""Exit code of a run that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop by a signal. Its checkpoint is written."""


class StopSignals:
    """While it is entered, the signals are noted in `asked` instead of ending the process.

    Only the main thread may handle signals: entered in another, it notes nothing.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """The first signal's name."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or signal.Signals(number).name
