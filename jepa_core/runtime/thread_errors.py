"""Errors of background threads: a full disk or a lost folder is one line of the log, not a traceback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("jepa.run")


@contextmanager
def thread_errors_in_a_line() -> Iterator[None]:
    """While it is entered, an OSError that ends a thread (TensorBoard's writer has one) is logged in a line.

    Other errors are reported as before.
    """
    before = threading.excepthook

    def report(error: threading.ExceptHookArgs) -> None:
        if isinstance(error.exc_value, OSError):
            name = error.thread.name if error.thread is not None else "a thread"
            log.warning("%s ended: %s", name, error.exc_value)
        else:
            before(error)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before
