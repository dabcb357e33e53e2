"""Commands that want one run's folder at once, or lose it while they train (in processes of their own)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from jepa_core import UserError
from jepa_core.runs.folder import reserve_folder
from tests import soak

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak.write_recipe(tmp_path_factory.mktemp("owner"))


def ends(*words: object) -> subprocess.CompletedProcess[str]:
    """`jepa train …` to its end."""
    return subprocess.run(soak.command(*words), capture_output=True, text=True, timeout=300)


LONG = "train.steps=100000"


def test_the_second_command_says_who_has_the_run_and_a_killed_one_is_followed_at_once(
    recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with soak.started(recipe, LONG, "--run", run) as process:
        soak.wait_for_step(run / "metrics.jsonl", 5, process)
        for words in (["--resume", "auto"], ["--overwrite"]):
            second = ends(recipe, LONG, "--run", run, *words)
            assert second.returncode == 73
            (line,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
            assert f"{str(run)!r} is in use by process {process.pid} on host " in line
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert len(list(run.glob("lock-*"))) == 1
    steps = "train.steps=41"
    third = ends(recipe, steps, "--run", run, "--resume", "auto", "--allow-change", "train.steps")
    assert third.returncode == 0, third.stderr
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(set(lines)), "no step is logged twice"
    assert list(run.glob("lock-*")) == []
    assert not list(run.glob("checkpoints/*.damaged"))


def test_a_folder_that_is_removed_while_it_trains_ends_the_run_with_a_line(
    recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with soak.started(recipe, LONG, "--run", run) as process:
        soak.wait_for_step(run / "metrics.jsonl", 5, process)
        shutil.rmtree(run, ignore_errors=True)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(timeout=60) == 2
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: stopped at step ")
    assert f"the run's folder {str(run)!r} was removed or moved while it trained" in last


def test_default_names_never_collide(recipe: Path, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            soak.command(recipe, "train.steps=1", "name=a/b"),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd()))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 3
    assert all((run / "checkpoints/step-00000001").is_dir() for run in runs)


def test_a_reserved_folder_is_new_and_removed_where_it_stays_empty(tmp_path: Path) -> None:
    name = tmp_path / "runs/x"
    with reserve_folder(name) as first, reserve_folder(name) as second, reserve_folder(name) as third:
        assert [first.name, second.name, third.name] == ["x", "x-2", "x-3"]
        (second / "recipe.toml").touch()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x-2"]
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be written: Not a directory"),
        reserve_folder(tmp_path / "file/x"),
    ):
        pass


def test_a_run_that_cannot_start_leaves_no_folder(recipe: Path, tmp_path: Path) -> None:
    done = ends(recipe, "data.path=/no/such.npz", "--run", tmp_path / "deep/run")
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
