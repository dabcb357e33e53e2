"""Real processes that are killed or told to stop, and go on (`tests/soak.py` does many more)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import soak

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield soak.write_recipe(tmp_path_factory.mktemp("soak"))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> soak.Reference:
    return soak.reference(recipe, recipe.with_name("whole"))


def test_killed_runs_go_on_bit_for_bit(recipe: Path, whole: soak.Reference, tmp_path: Path) -> None:
    draw = random.Random()  # other moments in every run of the tests
    kills = [soak.kill(recipe, tmp_path / f"{number}", whole, draw) for number in range(3)]
    assert all(kill.same for kill in kills), "\n".join(soak.row(i, kill) for i, kill in enumerate(kills))


def test_the_comparison_sees_a_difference(recipe: Path, whole: soak.Reference, tmp_path: Path) -> None:
    soak.finish(recipe, "seed=4", "--run", tmp_path / "other")
    metrics, weights = soak.learned(tmp_path / "other")
    assert metrics.keys() == whole.metrics.keys()
    assert metrics != whole.metrics
    assert weights != whole.weights


def stop(
    process: subprocess.Popen[str],
    run: Path,
    number: signal.Signals,
    send: Callable[[int, int], None] = os.kill,
) -> tuple[int, str]:
    """Signals once a step is logged; the exit code and what was said."""
    soak.wait_for_step(run / "metrics.jsonl", 1, process)
    send(process.pid, number)
    assert process.stderr is not None
    said = process.stderr.read()
    return process.wait(timeout=60), said.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_and_exits_with_75_for_schedulers_to_requeue(
    recipe: Path, whole: soak.Reference, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    never = "train.checkpoint_every=0"  # so that the only checkpoint is the one the signal asks for
    with soak.started(recipe, never, "data.workers=1", "--run", run) as process:
        code, said = stop(process, run, number)
    assert code == 75
    (saved,) = (run / "checkpoints").iterdir()
    assert said == f"stopped by {number.name}; jepa train --resume {run} goes on from {saved.name}"
    stopped = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()][-1]
    assert (stopped["kind"], stopped["why"]) == ("stopped", f"signal {number.name}")
    assert f"step-{stopped['step']:08d}" == saved.name
    if number == signal.SIGTERM:
        soak.finish(never, "--resume", run)
        assert soak.learned(run) == (whole.metrics, whole.weights)


def test_a_signal_to_the_whole_process_group_saves_too(
    recipe: Path, whole: soak.Reference, tmp_path: Path
) -> None:
    """As schedulers and terminals send it: the data workers get it as well, and end."""
    run = tmp_path / "run"
    never = "train.checkpoint_every=0"
    with soak.started(recipe, never, "data.workers=2", "--run", run) as process:
        code, said = stop(process, run, signal.SIGTERM, os.killpg)
    assert code == 75, said
    assert "stopped by SIGTERM" in said
    soak.finish(never, "--resume", run)
    assert soak.learned(run) == (whole.metrics, whole.weights)


def test_a_data_worker_that_is_killed_ends_the_run_in_a_line(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with soak.started(recipe, "data.workers=1", "--run", run) as process:
        soak.wait_for_step(run / "metrics.jsonl", 3, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [c for c in children if "pt_data_worker" in Path(f"/proc/{c}/comm").read_text()]
        os.kill(int(workers[0]), signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read().strip().splitlines()[-1]
        assert process.wait(timeout=60) == 2
    assert said.startswith("error: stopped at step ")
    assert "a data worker died" in said
    assert "the last good checkpoint is " in said
