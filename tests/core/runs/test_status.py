"""What became of a run, told from its files: states, exit codes, labels, and whatever is in the files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.runs.events_file import record
from jepa_core.runs.labels import LABELS, RunLabels, add_labels, make_labels, read_labels
from jepa_core.runs.lock import RunLock
from jepa_core.runs.status import EXIT_CODES, find_runs, read_status

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a folder that holds a run of 10 steps, with these events (kind, step, facts)."""

    def run(*events: tuple[str, int, dict[str, Any]], name: str = "run", steps: int | None = 10) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        length = "" if steps is None else f"[train]\nsteps = {steps}\n"
        (folder / "recipe.toml").write_text(f'name = "tiny"\n{length}', encoding="utf-8")
        for kind, step, facts in events:
            record(folder, kind, step, **facts)
        return folder

    return run


def checkpoint(folder: Path, step: int, size: int = 3) -> Path:
    """A checkpoint whose manifest says 3 bytes."""
    place = folder / f"checkpoints/step-{step:08d}"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"x" * size)
    files = {"model.safetensors": {"bytes": 3, "sha256": ""}}
    (place / "manifest.json").write_text(json.dumps({"step": step, "files": files}))
    return place


START = ("started", 0, {"total_steps": 10})


@pytest.mark.parametrize(
    ("events", "state", "code"),
    [
        ([], "not started", 75),
        ([START], "stopped", 75),
        ([START, ("stopped", 4, {"why": "signal SIGTERM"})], "stopped", 75),
        ([START, ("stopped", 4, {"why": "error KeyboardInterrupt: "})], "stopped", 75),
        ([START, ("stopped", 4, {"why": "stopped early"})], "stopped", 75),
        ([START, ("stopped", 4, {"why": "error UserError: the loss is nan"})], "failed", 2),
        ([START, ("stopped", 10, {"why": "finished"})], "finished", 0),
        ([START, ("stopped", 4, {"why": "error X"}), START], "stopped", 75),
        ([START, ("stopped", 10, {"why": "finished"}), START], "finished", 0),
        ([("imported", 0, {"file": "x"})], "imported", 0),
    ],
)
def test_the_state_is_that_of_the_last_event(
    make: Make, events: list[tuple[str, int, dict[str, Any]]], state: str, code: int
) -> None:
    status = read_status(make(*events))
    assert (status.state, EXIT_CODES[status.state], status.total_steps) == (state, code, 10)


def test_a_run_is_running_while_a_living_process_holds_it(make: Make) -> None:
    folder = make(START)
    with RunLock(folder):
        status = read_status(folder)
        assert (status.state, EXIT_CODES[status.state]) == ("running", 3)
        assert f"process {os.getpid()} on host {socket.gethostname()}" in status.why
    assert read_status(folder).state == "stopped"


def test_a_killed_process_runs_nothing(make: Make) -> None:
    folder = make(START)
    code = (
        "import sys, time; from pathlib import Path; from jepa_core.runs.lock import RunLock\n"
        "with RunLock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert read_status(folder).state == "running"
        process.kill()
        process.wait()
    status = read_status(folder)
    assert (status.state, status.why) == (
        "stopped",
        "its process is gone and recorded no end: killed, or its machine went down",
    )


def test_steps_come_from_log_events_and_checkpoints(make: Make) -> None:
    folder = make(START, steps=None)
    assert (read_status(folder).step, read_status(folder).total_steps) == (0, 10)
    (folder / "metrics.jsonl").write_text('{"step": 4, "loss": 1}\n{"step": 6, "val_kn')
    assert read_status(folder).step == 4
    checkpoint(folder, 7)
    checkpoint(folder, 9, size=2)
    status = read_status(folder)
    assert (status.step, status.checkpoint) == (7, folder / "checkpoints/step-00000007")


def test_scores_are_the_first_of_each_probe_and_the_best_in_training(make: Make) -> None:
    folder = make(START)
    rows = [{"scores": {"knn": {"top1": 0.5, "top1_se": 0.1}, "linear": {"top1": None}, "odd": []}}]
    (folder / "eval.json").write_text(json.dumps({"rows": rows}))
    lines = [{"step": 1, "val_knn": 0.2}, {"step": 2, "val_knn": 0.4}, {"step": 3, "val_knn": None}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_status(folder).scores == {"knn": 0.5, "val_knn": 0.4}


@pytest.mark.parametrize("file", ["metrics.jsonl", "events.jsonl", "eval.json", LABELS])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"3", b"null", b"{", b"\xff\xfe\0", b"[" * 9999, b'{"rows": 3}', b'{"step": "x"}'),
        b'{"rows": [[]], "kind": [], "step": 1e999, "tags": 3, "name": [], "note": {}}',
        *(b'{"kind": "stopped", "step": -1}', b'{"kind": "started", "step": 0, "total_steps": "x"}'),
    ],
)
def test_whatever_is_in_a_file_the_status_is_told(make: Make, file: str, content: bytes) -> None:
    folder = make()
    (folder / file).write_bytes(content + b"\n")
    status = read_status(folder)
    assert status.state in EXIT_CODES
    json.dumps(status.facts(), allow_nan=False)


def test_files_that_are_pipes_hang_nothing(make: Make) -> None:
    folder = make(START)
    for name in ("eval.json", LABELS):
        os.mkfifo(folder / name)
    assert read_status(folder).state == "stopped"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it holds no recipe\.toml"):
        read_status(tmp_path)


def test_runs_are_found_below_a_folder_and_not_through_links(make: Make, tmp_path: Path) -> None:
    a, b = make(name="one/a"), make(name="two/deeper/b")
    make(name="one/a/inside")
    (tmp_path / "one/loop").symlink_to(tmp_path)
    assert find_runs(tmp_path) == [a, b]
    assert find_runs(a) == [a]
    with pytest.raises(UserError, match="is no folder"):
        find_runs(a / "recipe.toml")


def test_tags_add_up_and_a_note_is_replaced(tmp_path: Path) -> None:
    assert read_labels(tmp_path) == RunLabels()
    add_labels(tmp_path, make_labels("first", ["a", "b", "a"], "one"))
    assert add_labels(tmp_path, make_labels(tags=["c"], note="two")) == read_labels(tmp_path)
    assert read_labels(tmp_path) == RunLabels("first", ("a", "b", "c"), "two")
    for wrong in ({"tags": [" "]}, {"tags": ["a\n"]}, {"name": "\x1b[31m"}):
        with pytest.raises(UserError):
            make_labels(**wrong)  # type: ignore[arg-type]


def test_a_status_is_quick_and_loads_no_torch(make: Make) -> None:
    code = (
        "import sys; from pathlib import Path; from jepa_core.runs.status import read_status\n"
        "read_status(Path(sys.argv[1])); print({'torch', 'timm', 'jepa_ijepa'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(make())], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_the_age_is_of_the_last_write(make: Make) -> None:
    folder = make(START)
    assert time.time() - read_status(folder).changed < 60
