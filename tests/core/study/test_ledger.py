"""Claims: one owner, taken over when silent, never won back; damaged files, and clocks that differ."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jepa_core.runtime.process_identity import ProcessIdentity
from jepa_core.study.file_ledger import FileLedger
from jepa_core.study.ledger import VANISHED, Claim, ClaimLost, Heartbeat, Ledger

ELSEWHERE = ProcessIdentity("another-host", "boot 1", 7, 9)


@pytest.fixture
def ledger(tmp_path: Path) -> FileLedger:
    return FileLedger(tmp_path, lease=30.0)


def claim(ledger: Ledger, cell: str = "a/seed-0") -> Claim:
    got = ledger.claim(cell, "id")
    assert got is not None
    return got


def as_if_elsewhere(ledger: FileLedger, held: Claim) -> None:
    """Makes a claim look like one of another host, whose processes cannot be looked up."""
    held.attempt = replace(held.attempt, process=ELSEWHERE)
    assert ledger.beat(held)


def file_of(ledger: FileLedger, held: Claim) -> Path:
    return ledger.folder / "claims" / held.cell / f"{held.generation:06d}.json"


def let_lapse(file: Path, seconds: float = 60.0) -> None:
    """Makes a claim look as if its last beat were long ago, without waiting for it."""
    changed = file.stat().st_mtime - seconds
    os.utime(file, (changed, changed))


def test_one_of_many_gets_a_cell(tmp_path: Path) -> None:
    for turn in range(20):
        got: list[Claim | None] = []

        def race(cell: str, into: list[Claim | None]) -> None:
            into.append(FileLedger(tmp_path).claim(cell, "id"))

        threads = [threading.Thread(target=race, args=(f"a/seed-{turn}", got)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(one is not None for one in got) == 1


def test_a_claim_is_kept_by_beats_and_given_away_without(ledger: FileLedger) -> None:
    held = claim(ledger)
    as_if_elsewhere(ledger, held)
    other = FileLedger(ledger.folder, lease=30.0)
    for _ in range(4):
        let_lapse(file_of(ledger, held))
        assert ledger.beat(held)
        assert other.claim("a/seed-0", "id") is None
    let_lapse(file_of(ledger, held))
    taken = claim(other)
    assert taken.generation == held.generation + 1
    assert taken.evict
    assert not ledger.beat(held)
    with pytest.raises(ClaimLost):
        ledger.close(held, "done", outcome={"identity": "id", "state": "diverged"})
    assert other.records([("a/seed-0", "id")])["a/seed-0"].outcome is None


def test_a_dead_process_of_this_host_is_taken_over_at_once(ledger: FileLedger) -> None:
    held = claim(ledger)
    held.attempt = replace(held.attempt, process=replace(held.attempt.process, pid=2**22 + 1))
    ledger.lease = 1000
    assert ledger.beat(held)
    assert not claim(ledger).evict


@pytest.mark.parametrize("content", [b"", b'{"identity": "id", "no', b"[]", b"\xff\xfe", b'{"process": 3}'])
def test_a_claim_file_cut_short_is_waited_for_and_then_taken_over(ledger: FileLedger, content: bytes) -> None:
    held = claim(ledger)
    file_of(ledger, held).write_bytes(content)
    assert ledger.claim("a/seed-0", "id") is None
    assert ledger.records([("a/seed-0", "id")])["a/seed-0"].running
    let_lapse(file_of(ledger, held))
    assert claim(ledger).evict


def test_the_owner_of_a_claim_file_cut_short_mends_it(ledger: FileLedger) -> None:
    held = claim(ledger)
    file_of(ledger, held).write_bytes(b"")
    assert ledger.beat(held)
    assert json.loads(file_of(ledger, held).read_text(encoding="utf-8"))["nonce"] == held.attempt.nonce


@pytest.mark.parametrize("shift", [-1e5, 1e5])
def test_clocks_that_differ_neither_steal_nor_hold_a_claim(tmp_path: Path, shift: float) -> None:
    """A claim from the future, by the file server's clock, expires by being watched."""
    ledger = FileLedger(tmp_path, lease=0.6)
    held = claim(ledger)
    as_if_elsewhere(ledger, held)
    now = time.time() + shift
    os.utime(file_of(ledger, held), (now, now))
    first = ledger.claim("a/seed-0", "id")
    assert (first is None) == (shift > 0)
    if first is None:
        time.sleep(0.8)
        assert claim(ledger).generation == 2


def test_a_wrong_clock_of_this_process_does_not_matter(
    ledger: FileLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = claim(ledger)
    as_if_elsewhere(ledger, held)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert ledger.claim("a/seed-0", "id") is None


def test_a_heartbeat_keeps_the_claim_and_notices_its_loss(ledger: FileLedger) -> None:
    held = claim(ledger)
    as_if_elsewhere(ledger, held)
    held.attempt = replace(held.attempt, lease=3.0)  # a beat every half second
    other = FileLedger(ledger.folder, lease=30.0)
    with Heartbeat(ledger, held) as heartbeat:
        held.progress = {"seconds": 2.5, "step": 4}
        end = time.monotonic() + 60
        while (record := other.records([("a/seed-0", "id")])["a/seed-0"]).attempts[0].step != 4:
            assert time.monotonic() < end, "no beat was written"
            time.sleep(0.05)
        heartbeat.check()
        assert (record.running, record.attempts[0].seconds) == (True, 2.5)
        file_of(ledger, held).with_name("000002.json").write_text("{}", encoding="utf-8")
        while not heartbeat._lost:
            assert time.monotonic() < end, "the loss was not noticed"
            time.sleep(0.05)
        with pytest.raises(ClaimLost):
            heartbeat.check()


def test_a_process_that_slept_asks_before_it_goes_on(ledger: FileLedger) -> None:
    held = claim(ledger)
    heartbeat = Heartbeat(ledger, held)  # its thread does not run, as while a process is stopped
    heartbeat.check()
    file_of(ledger, held).with_name("000002.json").write_text("{}", encoding="utf-8")
    heartbeat._last -= 60
    with pytest.raises(ClaimLost):
        heartbeat.check()


def test_attempts_are_counted_by_identity_and_until_a_retry(ledger: FileLedger) -> None:
    for error in ("first", "second"):
        ledger.close(claim(ledger), "error", error)
    cell = [("a/seed-0", "id")]
    assert ledger.records(cell)["a/seed-0"].errors == ["first", "second"]
    assert ledger.records([("a/seed-0", "other")])["a/seed-0"].errors == []
    ledger.forget("a/seed-0", "id")
    assert ledger.records(cell)["a/seed-0"].errors == []
    held = claim(ledger)
    ledger.forget("a/seed-0", "id")  # a cell that somebody has is left alone
    assert ledger.beat(held)


def test_workers_that_vanish_at_one_step_are_counted(ledger: FileLedger) -> None:
    for step in [3] + [5] * VANISHED:
        held = claim(ledger)
        held.progress = {"step": step}
        held.attempt = replace(held.attempt, process=replace(held.attempt.process, pid=2**22 + 1))
        assert ledger.beat(held)
    assert ledger.records([("a/seed-0", "id")])["a/seed-0"].workers_lost == VANISHED


def test_the_first_shared_value_stays(ledger: FileLedger) -> None:
    assert ledger.shared_value("x") is None
    assert ledger.share("x", {"seconds": 1.0}) == {"seconds": 1.0}
    assert ledger.share("x", {"seconds": 2.0}) == {"seconds": 1.0}
