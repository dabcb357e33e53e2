"""Every kind of file that the program reads, damaged in every way: exit code 0 or 2, one line, no hang.

    JEPA_FUZZ_SECONDS=3600 JEPA_FUZZ_SEED=7 python -m pytest tests/fuzz     an hour (default: a minute)
    python -m pytest tests/fuzz -k corpus                                   the cases that once failed

A case that fails is written to JEPA_FUZZ_FAILURES (default: the temporary folder), and its path is printed;
copied to corpus/KIND/ it is an example for ever. The cases follow from the seed and from the time alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from jepa_core.errors import UserError
from tests.fuzz.kinds import KINDS, outside_the_run, write_workspace

pytestmark = [pytest.mark.slow, pytest.mark.long]

SECONDS = float(os.environ.get("JEPA_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("JEPA_FUZZ_SEED", "0"))
FAILURES = Path(os.environ.get("JEPA_FUZZ_FAILURES") or Path(tempfile.gettempdir()) / "jepa-fuzz")
CORPUS = Path(__file__).with_name("corpus")
HANG = 20
"""Seconds that reading one file may take."""
EXAMPLES = 20
"""Cases between two looks at the clock."""


class Hang(BaseException):
    """Reading a file took longer than `HANG` seconds."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a whole file of each kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_workspace(folder)
    return folder


@pytest.fixture
def workspace(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder, with a data folder of its own."""
    folder = Path(shutil.copytree(whole, tmp_path / "workspace"))
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def time_limit() -> Iterator[None]:
    """Raises Hang in the midst of what takes too long."""

    def stop(*_: object) -> None:
        raise Hang(f"still reading after {HANG} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(kind: str, case: bytes, workspace: Path, whole: Path) -> None:
    """Reads one damaged file, and holds the rule. A case that breaks it is kept, and its path told."""
    file = workspace / KINDS[kind].path
    shutil.rmtree(workspace / "run", ignore_errors=True)
    shutil.copytree(whole / "run", workspace / "run")
    file.write_bytes(case)
    before = dict(outside_the_run(workspace))
    try:
        with time_limit():
            KINDS[kind].read(file)
    except UserError as error:
        if "\n" in str(error):
            _fail(kind, case, f"more than a line: {error}")
    except (Exception, Hang) as error:  # the rule: nothing else may come out
        _fail(kind, case, f"{type(error).__name__}: {error}", error)
    changed = [name for name, content in outside_the_run(workspace) if before.get(name) != content]
    if changed:
        _fail(kind, case, f"changed outside the run: {', '.join(changed)}")
    file.write_bytes((whole / KINDS[kind].path).read_bytes())


def _fail(kind: str, case: bytes, reason: str, error: BaseException | None = None) -> None:
    place = FAILURES / kind / hashlib.sha256(case).hexdigest()[:12]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(case)
    raise AssertionError(f"{place}: {reason}") from error


@pytest.mark.timeout(SECONDS / len(KINDS) + 600)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_a_line(kind: str, workspace: Path, whole: Path) -> None:
    content = (whole / KINDS[kind].path).read_bytes()
    end = time.monotonic() + SECONDS / len(KINDS)
    check(kind, content, workspace, whole)

    def run(case: bytes) -> None:
        if time.monotonic() < end:
            check(kind, case, workspace, whole)

    for number in count():
        if time.monotonic() >= end:
            return
        tested = given(KINDS[kind].damage(content))(run)
        tested = settings(
            max_examples=EXAMPLES,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(tested)
        seed(SEED * 1_000_000 + number)(tested)()


CASES = [
    pytest.param(path.parent.name, path, id=f"{path.parent.name}/{path.name}")
    for path in sorted(CORPUS.glob("*/*"))
]


def test_a_state_without_images_is_refused_in_a_line(workspace: Path, whole: Path) -> None:
    """Too large a case for the corpus."""
    tree = torch.load(whole / KINDS["state"].path, weights_only=True)
    for change in ({"images": None}, {"training": None}, {"training": {}}, {"training": {"step": None}}):
        stream = io.BytesIO()
        torch.save({**tree, **change}, stream)
        check("state", stream.getvalue(), workspace, whole)


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_the_corpus_of_cases_that_once_failed(kind: str, path: Path, workspace: Path, whole: Path) -> None:
    check(kind, path.read_bytes(), workspace, whole)
