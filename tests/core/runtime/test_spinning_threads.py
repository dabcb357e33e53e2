"""The line that says that threads spin: where it helps, once a run, louder on a busy machine."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from jepa_core.runtime import spinning_threads as module


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    for name in module.SETTINGS:
        monkeypatch.delenv(name, raising=False)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    caplog.set_level(logging.INFO, logger="jepa")
    module.warn_of_spinning_threads()
    return [(record.levelno, record.message) for record in caplog.records]


@pytest.mark.parametrize(("load", "level"), [(0.0, logging.INFO), (9.0, logging.WARNING)])
def test_the_level_follows_the_load(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, load: float, level: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(module, "cores", lambda: 2)
    ((found, text),) = lines(caplog)
    assert found == level
    assert text.startswith("torch computes with 2 threads that spin while they wait; ")
    assert "GOMP_SPINCOUNT=1000 before torch is imported" in text


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_nothing_is_said_to_those_who_chose(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "passive")
    assert lines(caplog) == []


def test_one_thread_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert lines(caplog) == []


def test_a_system_without_load_averages_counts_as_quiet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "getloadavg")
    assert [level for level, _ in lines(caplog)] == [logging.INFO]
