"""Kills training runs at random moments with SIGKILL, lets each go on, and compares with one left alone.

    make soak                                     50 kills, about ten minutes on one core
    python -m tests.soak --kills 5 --seed 1

Each round starts `jepa train` in a process of its own, with 0 to 2 data workers, and kills it: one in ten
while it is still starting, the others up to a tenth of a second after a step drawn evenly from all of them.
A checkpoint is written every second step, so that many kills fall into the writing of one. Another
process with another number of workers then goes on. Every metric of every step but the speed, and every
bit of the last checkpoint's weights, must be those of the run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 40
RECIPE = """
seed = 3
data = {{ name = "npz", path = "{path}" }}
encoder = {{ name = "official_tiny", width = 128, depth = 4, heads = 4, image_size = 16, patch_size = 4 }}
predictor = {{ name = "vit_predictor", width = 96, depth = 2, heads = 4 }}
masker = {{ name = "multiblock" }}
optimizer = {{ lr = 1e-3, warmup_steps = 5 }}
train = {{ steps = {steps}, batch_size = 8, log_every = 1, checkpoint_every = 2, device = "cpu" }}
probes = {{ knn = {{ name = "knn", k = 3 }} }}
"""
SPEED = {"images_per_s", "cpu_s_per_step", "other_cores"}


def write_recipe(folder: Path) -> Path:
    """Noise to train on (an epoch has nine steps: kills fall into the middle of it), and the recipe."""
    images = np.random.default_rng(0).integers(0, 255, (84, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=images)
    recipe = folder / "soak.toml"
    recipe.write_text(RECIPE.format(path=folder / "noise.npz", steps=STEPS), encoding="utf-8")
    return recipe


def command(*words: object) -> list[str]:
    """`jepa train …` for a process of its own."""
    return [sys.executable, "-c", "from jepa_core.cli import main; main()", "train", *map(str, words)]


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A running `jepa train …`, which does not outlive the context."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(*words), text=True, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(*words: object) -> None:
    """Runs `jepa train …` to its end. Raises RuntimeError with what it said where it fails."""
    done = subprocess.run(command(*words), text=True, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"jepa train ended with {done.returncode}: {done.stderr[-2000:]}")


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Returns as soon as the file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"the process ended before {path} came"
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.002)


def wait_for_step(metrics: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Returns as soon as so many steps are logged."""
    wait_for(metrics, process)
    while metrics.read_bytes().count(b"\n") < step:
        assert process.poll() is None, f"the process ended before step {step}"
        time.sleep(0.002)


def learned(run: Path) -> tuple[dict[int, dict[str, Any]], bytes]:
    """Every metric but the speed of every step, and the bytes of the last weights."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = {line["step"]: {k: v for k, v in line.items() if k not in SPEED} for line in lines}
    return metrics, (run / f"checkpoints/step-{STEPS:08d}/model.safetensors").read_bytes()


@dataclass
class Reference:
    """What the run that nobody killed learned."""

    metrics: dict[int, dict[str, Any]]
    weights: bytes


def reference(recipe: Path, run: Path) -> Reference:
    """Trains without a pause."""
    finish(recipe, "--run", run)
    return Reference(*learned(run))


@dataclass
class Kill:
    """One kill and what became of it."""

    moment: str
    workers: tuple[int, int]
    logged: int
    """Steps in metrics.jsonl when it died."""
    went_on_from: int
    saving: bool
    """Whether it died while a checkpoint was being written."""
    same: bool


def kill(recipe: Path, run: Path, expected: Reference, draw: random.Random) -> Kill:
    """Starts a run, kills it, lets it go on, and compares."""
    workers = draw.sample(range(3), 2)
    early, step, delay = draw.random() < 0.1, draw.randrange(STEPS), draw.uniform(0, 0.1)
    with started(recipe, f"data.workers={workers[0]}", "--run", run) as process:
        if early:
            delay *= 50
        else:
            wait_for_step(run / "metrics.jsonl", step, process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    logged, saving = left_behind(run)
    finish(recipe, f"data.workers={workers[1]}", "--run", run, "--resume", "auto")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    last_start = [event for event in events if event["kind"] == "started"][-1]
    moment = f"{delay * 1000:.0f} ms after {'the command' if early else f'step {step}'}"
    same = learned(run) == (expected.metrics, expected.weights)
    return Kill(moment, (workers[0], workers[1]), logged, last_start["step"], saving, same)


def left_behind(run: Path) -> tuple[int, bool]:
    """Steps that were logged, and whether a checkpoint was being written."""
    metrics = run / "metrics.jsonl"
    logged = metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0
    return logged, any((run / "checkpoints").glob("*.partial"))


def row(number: int, kill: Kill) -> str:
    """A line of the table."""
    cells = [
        str(number),
        kill.moment,
        f"{kill.workers[0]} → {kill.workers[1]}",
        f"{kill.logged}" + (", saving" if kill.saving else ""),
        str(kill.went_on_from),
        "identical" if kill.same else "DIFFERENT",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table; exits with 1 where a continuation differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw, kills = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_recipe(Path(folder))
        expected = reference(recipe, Path(folder) / "whole")
        print("| kill | moment | data workers | steps logged | went on from | later metrics, last weights |")
        print("| ---: | --- | --- | --- | ---: | --- |")
        for number in range(1, options.kills + 1):
            kills.append(kill(recipe, Path(folder) / f"run{number}", expected, draw))
            print(row(number, kills[-1]), flush=True)
    same = sum(kill.same for kill in kills)
    saving, before = sum(kill.saving for kill in kills), sum(kill.went_on_from == 0 for kill in kills)
    print(f"\n{len(kills)} kills, {same} bit-identical continuations; {saving} fell into the writing of a "
          f"checkpoint, {before} before the first one.")  # fmt: skip
    raise SystemExit(same != len(kills))


if __name__ == "__main__":
    main()
