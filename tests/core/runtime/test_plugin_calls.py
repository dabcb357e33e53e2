"""Calling a plugin's code: whatever it does, the caller goes on; a real Ctrl-C is told from a raised one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from jepa_core.errors import UserError
from jepa_core.runtime import plugin_calls
from jepa_core.runtime.plugin_calls import (
    PluginError,
    call_plugin,
    process_state_kept,
    refuse_exit,
    warn_if_slow,
)


def raising(error: BaseException) -> None:
    raise error


def test_what_it_returns_is_handed_on() -> None:
    assert call_plugin(divmod, 7, 2) == (3, 1)


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (ValueError("no"), "ValueError: no"),
        (SystemExit(0), "SystemExit: 0"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (
            BaseExceptionGroup("two", [SystemExit(0), ValueError()]),
            "BaseExceptionGroup: two (2 sub-exceptions)",
        ),
    ],
)
def test_whatever_it_raises_becomes_one_kind_of_error(error: BaseException, described: str) -> None:
    with pytest.raises(PluginError) as raised:
        call_plugin(raising, error)
    assert (str(raised.value), raised.value.raised) == (described, error)


def test_an_error_of_the_user_can_be_had() -> None:
    with pytest.raises(PluginError) as raised:
        call_plugin(raising, UserError("stop here"))
    assert isinstance(raised.value.raised, UserError)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


def swallow_ctrl_c() -> None:
    with contextlib.suppress(BaseException):
        press_ctrl_c()


def exit_on_ctrl_c() -> None:
    try:
        press_ctrl_c()
    except KeyboardInterrupt:
        sys.exit(0)


@pytest.mark.parametrize("function", [press_ctrl_c, swallow_ctrl_c, exit_on_ctrl_c])
def test_a_real_ctrl_c_ends_it_whatever_the_plugin_makes_of_it(function) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        call_plugin(function)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_only_noted_does_not_end_it() -> None:
    """During training the first SIGINT asks the run to stop after its step."""
    noted = []
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        call_plugin(os.kill, os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted == [signal.SIGINT]


def test_a_handler_that_a_plugin_installs_does_not_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    call_plugin(signal.signal, signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_it_works_too() -> None:
    seen: list[object] = []

    def work() -> None:
        try:
            call_plugin(raising, KeyboardInterrupt())
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [type(error) for error in seen] == [PluginError]


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(), GeneratorExit(), asyncio.CancelledError()])
def test_a_program_is_not_ended_by_a_component(error: BaseException) -> None:
    with pytest.raises(UserError) as raised:
        refuse_exit(raising, error)
    place = rf"{type(error).__name__}.* was raised in {__name__} \(test_plugin_calls\.py:\d+\)"
    assert re.fullmatch(f"{place}; a component must not end the program", str(raised.value))


@pytest.mark.parametrize("error", [ValueError("x"), UserError("y"), KeyboardInterrupt()])
def test_a_program_is_ended_by_all_else(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        refuse_exit(raising, error)
    assert raised.value is error


def test_the_parser_of_the_command_line_may_exit() -> None:
    import typer

    with pytest.raises(SystemExit):
        refuse_exit(typer.Typer(callback=lambda: None, invoke_without_command=True), ["--help"])
    assert refuse_exit(divmod, 7, 2) == (3, 1)


def test_what_takes_long_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(plugin_calls, "SLOW_SECONDS", 0.1)
    with warn_if_slow("importing plugin 'tea'"):
        time.sleep(0.5)
    with warn_if_slow("importing plugin 'coffee'"):
        pass
    time.sleep(0.2)
    assert [record.message for record in caplog.records] == ["still importing plugin 'tea' after 0.1 s"]


def test_the_import_of_torch_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = ModuleType("torch")
    module.__spec__ = SimpleNamespace(_initializing=True)  # type: ignore[assignment]
    monkeypatch.setattr(plugin_calls, "SLOW_SECONDS", 0.1)
    monkeypatch.setitem(sys.modules, "torch", module)
    with warn_if_slow("importing plugin 'tea'"):
        time.sleep(0.5)
    assert not caplog.records
    module.__spec__ = None
    with warn_if_slow("importing plugin 'tea'"):
        time.sleep(0.5)
    assert len(caplog.records) == 1


def test_what_is_printed_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with process_state_kept("plugin 'tea'"):
        print("hello")
        sys.stdout.close()
        sys.stderr.close()
        handler = logging.StreamHandler()
    print("[]")
    handler.emit(logging.LogRecord("x", logging.WARNING, "", 0, "later", (), None))
    assert capsys.readouterr() == ("[]\n", "hello\nlater\n")


def test_arguments_and_folder_are_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["jepa", "plugins"])
    here = os.getcwd()

    def change() -> None:
        with process_state_kept("plugin 'tea'"):
            sys.argv.clear()
            os.chdir(tmp_path)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert (sys.argv, os.getcwd()) == (["jepa", "plugins"], here)
    assert [record.message for record in caplog.records] == [
        "plugin 'tea' changed sys.argv and the working folder, which is set back"
    ]
