"""One process works on a run at a time: races, dead owners, owners elsewhere, claims that are no claims."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_core import UserError
from jepa_core.runs import lock as module
from jepa_core.runs.lock import RunLock, RunLocked, read_owner
from jepa_core.runtime.process_identity import ProcessIdentity

HOLD = """
import sys, time
from pathlib import Path
from jepa_core.runs.lock import RunLock, RunLocked
go = float(sys.argv[2])
time.sleep(max(0, go - time.time()))
try:
    with RunLock(Path(sys.argv[1])):
        print("owner", flush=True)
        time.sleep(float(sys.argv[3]))
except RunLocked as error:
    print(error, flush=True)
"""


def hold(folder: Path, go: float, seconds: float) -> subprocess.Popen[str]:
    """Another process that takes the lock at time `go` and keeps it for some seconds."""
    words = [sys.executable, "-c", HOLD, str(folder), str(go), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def claim(folder: Path, age: float = 0.0, **changes: object) -> Path:
    """A claim's file in the folder, by default this process's."""
    facts = vars(ProcessIdentity.of_this_process()) | {"since": "2020-01-01T00:00:00+00:00"} | changes
    file = folder / "lock-00000000000000000001-aaaa.json"
    file.write_text(json.dumps(facts))
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with RunLock(tmp_path / "runs/a") as lock:
        lock.check()
        (file,) = (tmp_path / "runs/a").iterdir()
        facts = json.loads(file.read_text())
        assert facts["pid"] == os.getpid()
        owner = read_owner(tmp_path / "runs/a")
        assert owner is not None
        assert owner.process == ProcessIdentity.of_this_process()
    assert list(tmp_path.iterdir()) == [], "folders that were made for a run that wrote nothing are removed"
    with RunLock(tmp_path / "b"):
        (tmp_path / "b/recipe.toml").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["recipe.toml"]


def test_the_second_is_told_who_holds_it_and_leaves_the_first_alone(tmp_path: Path) -> None:
    process = hold(tmp_path, 0, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "owner\n"
    with pytest.raises(RunLocked) as error, RunLock(tmp_path):
        pass
    host = ProcessIdentity.of_this_process().host
    said = str(error.value)
    assert said.startswith(f"{str(tmp_path)!r} is in use by process {process.pid} on host {host}, since 20")
    assert said.endswith("; it must end first")
    assert RunLocked.exit_code == 73
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGKILL)
    for _ in range(100):  # not reaped yet: a zombie is dead too
        time.sleep(0.01)
        if read_owner(tmp_path) is None:
            break
    with RunLock(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1, "the dead process's claim is removed"
    process.wait()


@pytest.mark.parametrize("dead", [False, True], ids=["free", "after a dead owner"])
@pytest.mark.long
def test_of_many_that_race_exactly_one_wins(tmp_path: Path, dead: bool) -> None:
    if dead:
        claim(tmp_path, pid=2**22 + 1)
    go = time.time() + 4
    racers = [hold(tmp_path, go, 6) for _ in range(12)]
    said = [racer.communicate(timeout=120)[0].strip() for racer in racers]
    assert said.count("owner") == 1, said
    assert all("is in use by process" in text for text in said if text != "owner")
    assert list(tmp_path.iterdir()) == []


DEAD: dict[str, Callable[[Path], object]] = {
    "a process that has ended": lambda folder: claim(folder, pid=2**22 + 1),
    "a number that was used again": lambda folder: claim(folder, started=1),
    "another host, long ago": lambda folder: claim(folder, age=1000, host="elsewhere"),
    "before a reboot, long ago": lambda folder: claim(folder, age=1000, place="another boot"),
    "no claim, long ago": lambda folder: (
        (folder / "lock-x.json").write_text("["),
        os.utime(folder / "lock-x.json", (1, 1)),
    ),
}


@pytest.mark.parametrize("case", DEAD)
def test_a_dead_claim_does_not_count(tmp_path: Path, case: str) -> None:
    DEAD[case](tmp_path)
    assert read_owner(tmp_path) is None
    with RunLock(tmp_path) as lock:
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_host_counts_while_it_is_renewed(tmp_path: Path) -> None:
    file = claim(tmp_path, age=30, host="elsewhere", pid=7)
    with pytest.raises(RunLocked) as error, RunLock(tmp_path):
        pass
    assert "in use by process 7 on host elsewhere, since 2020-01-01T00:00:00+00:00, last heard" in str(
        error.value
    )
    assert "(given up after 120 s)" in str(error.value)
    assert list(tmp_path.iterdir()) == [file]


BROKEN = ["", "[]", "null", "{}", '{"pid": "x"}', "[" * 100_000, '{"pid": 1e999}', "\0", "9" * 5000]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_fresh_file_that_is_no_claim_counts_as_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock-0.json").write_text(text)
    with pytest.raises(RunLocked, match="in use by another process"), RunLock(tmp_path):
        pass


def test_the_claim_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    with RunLock(tmp_path):
        (file,) = tmp_path.iterdir()
        os.utime(file, (1, 1))
        for _ in range(200):
            time.sleep(0.01)
            if file.stat().st_mtime > 1:
                break
        assert file.stat().st_mtime > time.time() - 60


def test_an_owner_whose_claim_is_gone_is_told(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        (file,) = tmp_path.iterdir()
        file.unlink()
        with pytest.raises(UserError, match="was removed or moved while it trained"):
            lock.check()
        claim(tmp_path)
        with pytest.raises(UserError, match="was taken over by process"):
            lock.check()


def test_the_earliest_waits_for_the_others_to_withdraw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT", 0.1)
    file = claim(tmp_path).rename(tmp_path / "lock-99999999999999999999-late.json")
    with pytest.raises(RunLocked), RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; name another"), RunLock(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="cannot be written: No such file"), RunLock(Path("/proc/run")):
        pass
