"""The machine's load: what others use is told from what this process and its children use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepa_core.runtime import machine_load
from jepa_core.runtime.machine_load import Load, LoadMeter


def stat(cpu0: int, cpu1: int) -> str:
    """A /proc/stat with `user` ticks for each of two cores."""
    rest = "1 2 500 7 0 1 3 0 0"
    return f"cpu  9 9 9 9\ncpu0 {cpu0} {rest}\ncpu1 {cpu1} {rest}\nintr 5\n"


def process(pid: int, ticks: int, children: str = "") -> dict[str, str]:
    """Files of /proc for one process whose name holds what breaks naive parsers."""
    fields = f"{pid} (a ) b) S 1 {' '.join(['0'] * 9)} {ticks} 0 0 0 20"
    return {f"{pid}/stat": fields, f"{pid}/task/{pid}/children": children}


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Writes a made-up /proc; a second passes with every reading."""
    monkeypatch.setattr(machine_load, "PROC", tmp_path)
    monkeypatch.setattr(machine_load.os, "getpid", lambda: 10)
    monkeypatch.setattr(machine_load, "_our_cores", lambda: frozenset({0, 1}))
    monkeypatch.setattr(machine_load.os, "sysconf", lambda _: 100)
    clock = iter(range(1000))
    monkeypatch.setattr(machine_load.time, "monotonic", lambda: float(next(clock)))

    def write(**files: str) -> None:
        for name, text in {**files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_what_a_worker_uses_is_ours(proc) -> None:
    proc(stat=stat(0, 0), **process(10, 0, "11"), **process(11, 0))
    meter = LoadMeter()
    proc(stat=stat(90, 70), **process(10, 40, "11"), **process(11, 50))
    load = meter.read()
    assert load is not None
    assert (round(load.others, 2), load.cores) == (0.7, 2)
    proc(stat=stat(190, 170), **process(10, 140, ""), **process(11, 50))
    load = meter.read()
    assert load is not None
    assert str(load) == "other processes use 1.5 of 2 cores"


def test_nothing_is_said_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_load, "PROC", tmp_path)
    assert LoadMeter().read() is None


def test_two_readings_in_one_moment_say_nothing() -> None:
    meter = LoadMeter()
    assert meter.read() is None


@pytest.mark.parametrize(
    ("others", "cores", "threads", "slows"),
    [
        (0.1, 2, 2, False),
        (1.0, 2, 2, True),
        (1.0, 2, 1, False),
        (1.9, 2, 1, True),
        (2.0, 64, 64, False),
        (30.0, 64, 64, True),
        (30.0, 64, 8, False),
    ],
)
def test_a_machine_is_busy_where_our_threads_do_not_fit(
    others: float, cores: int, threads: int, slows: bool
) -> None:
    assert Load(others, cores).slows(threads) is slows


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux only")
def test_what_a_child_uses_is_counted_as_ours() -> None:
    spin = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", spin])
    try:
        time.sleep(1.0)
        assert child.pid in list(machine_load._descendants(os.getpid()))
        assert machine_load._ticks_of(child.pid) > 5
        assert LoadMeter()._counters() is not None
    finally:
        child.kill()
        child.wait()
