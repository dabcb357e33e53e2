"""A study whose workers are killed with SIGKILL goes on: every cell once, results as if undisturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.core.study.conftest import WriteStudy

pytestmark = [pytest.mark.slow, pytest.mark.long]

JEPA = (sys.executable, "-m", "jepa_core")
SAME = ("arm", "seed", "state", "metric", "images", "flops", "steps", "identity", "folder")
"""Columns of cells.csv that no interruption may change."""

LONGER = """
recipe = "{recipe}"
set = ["train.steps=40"]
seeds = [0, 1]
metric = "knn.top1"
probes = ["knn"]
[arms.multiblock]
[arms.random]
set = ["masker.name=random"]
[arms.deep]
set = ["predictor.depth=2"]
"""


def start(file: Path, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """`jepa study run` with two workers, in a process group of its own."""
    command = [*JEPA, "study", "run", str(file), "--folder", str(folder), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)  # type: ignore[call-overload]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        return [{key: row[key] for key in SAME} for row in csv.DictReader(file)]


def without_times(folder: Path) -> dict[str, object]:
    facts = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    for arm in facts["arms"].values():
        for key in ("step_seconds", "train_seconds"):
            arm.pop(key)
    return facts | {"name": ""}


def wait_for_steps(folder: Path, count: int) -> None:
    """Returns once the cells have logged so many lines together."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        logs = folder.glob("cells/*/*/metrics.jsonl")
        if sum(len(log.read_text(encoding="utf-8").splitlines()) for log in logs) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("the workers did not get so far")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_three_times_and_gone_on_with(write_study: WriteStudy, tmp_path: Path) -> None:
    file, folder, undisturbed = write_study(LONGER), tmp_path / "killed", tmp_path / "undisturbed"
    for lines in (15, 90, 150):
        process = start(file, folder, "--workers", "2")
        wait_for_steps(folder, lines)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(file, folder, "--workers", "2").wait() == 0
    assert start(file, undisturbed).wait() == 0
    assert len(rows(folder)) == 6
    assert rows(folder) == rows(undisturbed)
    assert without_times(folder) == without_times(undisturbed)
    for cell in folder.glob("cells/*/*"):
        lines = (cell / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
        ended = [json.loads(text) for text in sorted_claims(folder, cell)]
        assert [claim["ended"] for claim in ended].count("done") == 1
    assert not (folder / "superseded").exists()


def sorted_claims(folder: Path, cell: Path) -> list[str]:
    place = folder / "claims" / cell.relative_to(folder / "cells")
    return [file.read_text(encoding="utf-8") for file in sorted(place.glob("*.json"))]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_hangs_past_its_lease_loses_its_cell(write_study: WriteStudy, tmp_path: Path) -> None:
    """Stopped by SIGSTOP in the middle of a cell, woken up once another worker has done it."""
    text = 'lease = 2\nset = ["train.steps=300"]\nseeds = [0]\nprobes = ["knn"]\n'
    text += 'recipe = "{recipe}"\n[arms.a]\n'
    file, folder = write_study(text, "one.toml"), tmp_path / "one"
    command = [*JEPA, "study", "work", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    hung = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    wait_for_steps(folder, 60)
    hung.send_signal(signal.SIGSTOP)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = (folder / "cells/a/seed-0/cell.json").read_bytes()
    hung.send_signal(signal.SIGCONT)
    said = hung.communicate()[0]
    assert hung.returncode == 0
    assert "another worker has taken it over" in said
    assert (folder / "cells/a/seed-0/cell.json").read_bytes() == outcome
    assert len(list((folder / "superseded/a").glob("seed-0-hung*"))) == 1
    lines = (folder / "cells/a/seed-0/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 301))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_stops_all_workers_and_the_same_command_goes_on(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    file, folder = write_study(LONGER), tmp_path / "stopped"
    process = start(file, folder, "--workers", "2")
    wait_for_steps(folder, 15)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    claims = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("claims/*/*/*.json")]
    assert {claim["ended"] for claim in claims} <= {"stopped", "done"}
    assert start(file, folder).wait() == 0
    assert {row["state"] for row in rows(folder)} == {"done"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_end_when_the_command_that_started_them_is_killed(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    file, folder = write_study(LONGER.replace("40", "4000")), tmp_path / "orphans"
    process = start(file, folder, "--workers", "2")
    wait_for_steps(folder, 15)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while any(
        not json.loads(path.read_text(encoding="utf-8"))["ended"] for path in folder.glob("claims/*/*/*.json")
    ):
        assert time.monotonic() < end, "a worker goes on without its parent"
        time.sleep(0.2)
