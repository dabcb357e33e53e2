"""Calling a plugin's code so that nothing it does ends the program, or hides what happened.

A plugin may raise anything, `SystemExit` and `KeyboardInterrupt` included, never return, print, close
standard output, or change `sys.argv`. Whoever calls one decides what its failure costs; the program goes on.
A Ctrl-C from the keyboard still ends it: what tells the two apart is whether the handler of SIGINT ran.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from jepa_core.errors import UserError, describe_error, printable

SLOW_SECONDS = 5.0
"""After so many seconds a plugin that has not returned is named."""

PARSERS = ("typer", "click", "rich")
"""Packages whose SystemExit is meant: completion ends with it, and printing to a reader that is gone."""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("jepa")


class PluginError(Exception):
    """A plugin's code failed; it describes in one line what it raised, which is `raised`."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(describe_error(raised))
        self.raised = raised

    @property
    def message(self) -> str:
        """The description without the name of the exception's class."""
        return str(self).removeprefix(f"{type(self.raised).__name__}: ")


def call_plugin(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The function's result. Raises PluginError for whatever it raises, KeyboardInterrupt for a Ctrl-C."""
    with _Sigint() as sigint:
        try:
            result = function(*arguments, **named)
        except BaseException as error:  # a plugin may fail in any way; the caller says what that costs
            if not sigint.pressed:
                raise PluginError(error) from error
    if sigint.pressed:  # also where the plugin caught it
        raise KeyboardInterrupt
    return result


def refuse_exit(program: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of a whole program, which no component may end by `sys.exit()`.

    Raises UserError, with the place, for SystemExit and the like from anywhere but the command-line parser: a
    program that did not do its work must not end with exit code 0.
    """
    try:
        return program(*arguments, **named)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit, GeneratorExit, CancelledError, and what a plugin derives
        frame = _innermost_frame(error)
        module = str(frame.f_globals.get("__name__"))
        if isinstance(error, SystemExit) and module.partition(".")[0] in PARSERS:
            raise
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        text = (
            f"{describe_error(error)} was raised in {module} ({place}); a component must not end the program"
        )
        raise UserError(printable(text)) from error


def _innermost_frame(error: BaseException) -> FrameType:
    trace = error.__traceback__
    assert trace is not None, "it was raised and caught"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame


class _Sigint:
    """While it is entered, `pressed` tells whether SIGINT arrived and its handler raised KeyboardInterrupt.

    Python delivers signals to the main thread only; in another thread nothing is installed. On leaving, the
    handler is the one from before, also where the plugin installed its own.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __enter__(self) -> _Sigint:
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before(number, frame)
        except KeyboardInterrupt:
            self.pressed = True
            raise


@contextmanager
def warn_if_slow(doing: str) -> Iterator[None]:
    """One warning, `still DOING after 5 s`, when what is done inside takes longer; it is not stopped.

    The import of torch, which the first plugin that needs it waits for, is not counted against that plugin.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SLOW_SECONDS):
            if not _torch_is_loading():
                log.warning("still %s after %g s", doing, SLOW_SECONDS)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _torch_is_loading() -> bool:
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))  # importlib sets it while a module's code runs


@contextmanager
def process_state_kept(who: str) -> Iterator[None]:
    """Standard output and error, `sys.argv` and the working folder are afterwards what they were before.

    What is printed inside goes to standard error, since a command's own output may be JSON. A warning names
    `who` where arguments or folder had to be set back.
    """
    output, error, arguments, folder = sys.stdout, sys.stderr, list(sys.argv), _working_folder()
    sys.stdout = sys.stderr = _GuardedStream(error)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = output, error
        changed = []
        if sys.argv != arguments:
            sys.argv = arguments
            changed.append("sys.argv")
        if folder is not None and _working_folder() != folder:
            os.chdir(folder)
            changed.append("the working folder")
        if changed:
            log.warning("%s changed %s, which is set back", who, " and ".join(changed))


def _working_folder() -> str | None:
    """None where the folder has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


class _GuardedStream:
    """A text stream that stays open and passes on printable text alone; all else is the wrapped stream's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes `text` with its control characters, but line ends and tabs, as escapes."""
        self._stream.write(printable(text, keep="\n\t"))
        return len(text)

    def close(self) -> None:
        """Does nothing: the stream belongs to the program."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
