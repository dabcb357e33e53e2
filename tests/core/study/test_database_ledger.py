"""Claims in a database: SQLite, and a real PostgreSQL server where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.runtime.process_identity import ProcessIdentity
from jepa_core.study.ledger import Claim, ClaimLost
from jepa_core.study.plan import load_study
from jepa_core.study.worker import work
from tests.core.study.conftest import THREE, WriteStudy

pytest.importorskip("sqlalchemy", reason="claims in a database need jepa-core[study]")
from jepa_core.study.database_ledger import DatabaseLedger, open_engine

JEPA = (sys.executable, "-m", "jepa_core")
ELSEWHERE = ProcessIdentity("another-host", "boot 1", 7, 9)


def programs() -> Path | None:
    """The folder with Debian's PostgreSQL server, newest first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return found[0].parent if found else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server started for this file, as a user of its own where we are root."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg: jepa-core[study]")
    place = programs()
    if place is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    folder, port = Path(tempfile.mkdtemp(prefix="jepa-pg-")), free_port()
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": folder,
        **user,
    }
    subprocess.run(
        [place / "initdb", "-D", data, "-U", "jepa", "-A", "trust", "--no-sync"], check=True, **quiet
    )
    options = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
    server = subprocess.Popen([place / "postgres", *options], **quiet)
    url = f"postgresql://jepa@127.0.0.1:{port}/postgres"
    try:
        wait_for(url)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # the server's fast shutdown, which does not wait for its clients
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            open_engine(url).connect().close()
            return
        except Exception:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path}/claims.db"


@pytest.fixture
def open_ledger(url: str, tmp_path: Path) -> Callable[[], DatabaseLedger]:
    return lambda: DatabaseLedger(url, tmp_path.name, lease=30.0)


def claim(ledger: DatabaseLedger) -> Claim:
    got = ledger.claim("a/seed-0", "id")
    assert got is not None
    return got


def let_lapse(ledger: DatabaseLedger) -> None:
    """Makes all claims look as if their last beats were long ago, without waiting for it."""
    with ledger.engine.begin() as connection:
        connection.execute(ledger._cells.update().values(beat=ledger._cells.c.beat - 60.0))


def test_one_of_many_gets_a_cell(open_ledger: Callable[[], DatabaseLedger]) -> None:
    ledgers = [open_ledger() for _ in range(4)]
    for turn in range(5):
        got: list[Claim | None] = []

        def race(ledger: DatabaseLedger, cell: str, into: list[Claim | None]) -> None:
            into.append(ledger.claim(cell, "id"))

        threads = [threading.Thread(target=race, args=(one, f"a/seed-{turn}", got)) for one in ledgers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(one is not None for one in got) == 1


def test_a_row_that_is_locked_is_left_to_its_owner(open_ledger: Callable[[], DatabaseLedger]) -> None:
    """SKIP LOCKED: who wants another worker's row gets nothing at once, and does not wait."""
    ledger, other = open_ledger(), open_ledger()
    if ledger.engine.dialect.name != "postgresql":
        pytest.skip("SQLite locks the whole file")
    ledger.close(claim(ledger), "stopped")
    with ledger.engine.begin() as connection:
        assert ledger._lock_row(connection, "a/seed-0", "id") is not None
        started = time.monotonic()
        assert other.claim("a/seed-0", "id") is None
        assert time.monotonic() - started < 5
    assert other.claim("a/seed-0", "id") is not None


def test_a_silent_worker_loses_its_cell(open_ledger: Callable[[], DatabaseLedger]) -> None:
    ledger, other = open_ledger(), open_ledger()
    held = claim(ledger)
    held.attempt = replace(held.attempt, process=ELSEWHERE)
    assert ledger.beat(held)
    assert other.claim("a/seed-0", "id") is None
    assert other.records([("a/seed-0", "id")])["a/seed-0"].running
    let_lapse(ledger)
    taken = claim(other)
    assert taken.evict
    assert not ledger.beat(held)
    with pytest.raises(ClaimLost):
        ledger.close(held, "done", outcome={"state": "done"})
    other.close(taken, "done", outcome={"state": "done", "identity": "id"})
    assert ledger.records([("a/seed-0", "other")])["a/seed-0"].outcome is None
    assert ledger.records([("a/seed-0", "id")])["a/seed-0"].outcome == {"state": "done", "identity": "id"}


def test_attempts_and_shared_values(open_ledger: Callable[[], DatabaseLedger]) -> None:
    ledger = open_ledger()
    ledger.close(claim(ledger), "error", "first")
    assert ledger.records([("a/seed-0", "id")])["a/seed-0"].errors == ["first"]
    ledger.forget("a/seed-0", "id")
    assert ledger.records([("a/seed-0", "id")])["a/seed-0"].errors == []
    assert ledger.shared_value("x") is None
    assert ledger.share("x", 1) == ledger.share("x", 2) == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_study_by_two_workers_without_a_common_disk(
    url: str, write_study: WriteStudy, tmp_path: Path
) -> None:
    file = write_study(f'claims = "{url}"\n' + THREE, f"study-{tmp_path.name}.toml")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [[str(file), "--folder", str(tmp_path / name)] for name in ("one", "two")]
    workers = [
        subprocess.Popen(
            [*JEPA, "study", "work", *word],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for word in words
    ]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sum(text.count(": done") for text in said) == 6
    cells = work(load_study(file, tmp_path / "three"), say=lambda text: None)
    assert {status.state for status in cells} == {"done"}
    assert not (tmp_path / "three/cells").exists()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://nobody:secret@127.0.0.1:9/none", "cannot be used"),
        ("mysql://host/base", "mysql database are not supported; known: postgresql, sqlite"),
        ("nonsense", "expected files, or a database's URL"),
        ("://", "no database's URL"),
        ("sqlite:////no/such/folder/claims.db", "cannot be used"),
    ],
)
def test_a_database_out_of_reach_is_one_line(
    url: str, what: str, write_study: WriteStudy, jepa: Callable[..., Any]
) -> None:
    said = jepa("study", "run", write_study(f'claims = "{url}"\n' + THREE))
    assert (said.code, said.out) == (2, "")
    assert what in said.err
    assert "secret" not in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(UserError, match=r"pip install 'jepa-core\[study\]'"):
        open_engine("sqlite://")
