"""Several processes train what one would: the same losses, one folder, another number of them on resuming."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import UserError, load_recipe, train
from jepa_core.runs.batches import micro_batches
from jepa_core.runs.events_file import read_events
from jepa_core.runs.metrics_file import read_metrics
from jepa_core.runtime.distributed import Ranks, all_reduce_sum, world_size
from jepa_core.runtime.process_identity import ProcessIdentity

COMMAND = "from jepa_core.cli import main; main()"


def two(*words: object) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in two processes that torchrun starts."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "--no-python", "--", sys.executable, *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def logged(run: Path, name: str) -> list[float]:
    return [line[name] for line in read_metrics(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small images, two of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for number in (7, 30):
        (folder / f"{number}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def asked(tiny_recipe: Path, images: Path) -> list[str]:
    folder = [f"data.path={images}", "data.val_share=0", "data.test_share=0", "data.name=folder"]
    return [str(tiny_recipe), *folder, "train.micro_batch=4", "train.checkpoint_every=3", "train.steps=10"]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_hand_over_to_it(asked: list[str], tmp_path: Path) -> None:
    train(load_recipe(*asked), tmp_path / "one")
    done = two("-c", COMMAND, "train", *asked, "--run", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("10 steps done") == 1, "one process speaks"
    for name in ("loss", "loss/prediction", "grad_norm", "lr", "momentum"):
        theirs, ours = (logged(tmp_path / run, name) for run in ("two", "one"))
        np.testing.assert_allclose(theirs, ours, rtol=2e-4, err_msg=name)
    counts = [logged(tmp_path / run, "corrupt_images")[-1] for run in ("one", "two")]
    assert counts[0] == counts[1] > 0, "what the other process met is counted too"
    kinds = [event["kind"] for event in read_events(tmp_path / "two")]
    assert kinds == ["started", *["checkpoint_saved"] * 4, "stopped"]
    shutil.rmtree(tmp_path / "two/checkpoints/step-00000010")
    train(load_recipe(*asked), tmp_path / "two", resume=True)
    theirs, ours = (logged(tmp_path / run, "loss") for run in ("two", "one"))
    assert len(theirs) == 10
    np.testing.assert_allclose(theirs, ours, rtol=2e-4, err_msg="one process goes on with the run of two")


@pytest.mark.slow
def test_two_processes_have_the_groups_and_the_optimizer_of_one(asked: list[str], tmp_path: Path) -> None:
    """A frozen group takes no gradient, for which the processes would otherwise wait."""
    groups = ["optimizer.groups.f={match='encoder.patch_embed', frozen=true}", "optimizer.layer_decay=0.8"]
    words = [*asked, "train.steps=4", "train.checkpoint_every=0", "optimizer.name=muon", *groups]
    train(load_recipe(*words), tmp_path / "one")
    done = two("-c", COMMAND, "train", *words, "--run", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    theirs, ours = (logged(tmp_path / run, "loss") for run in ("two", "one"))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_with_a_checkpoint(asked: list[str], tmp_path: Path) -> None:
    script = tmp_path / "stops.py"
    script.write_text(STOPS, encoding="utf-8")
    done = two(script, *asked, "train.checkpoint_every=0", tmp_path / "run")
    said = sorted(done.stdout.strip().splitlines())
    assert said == ["stopped 0 SIGTERM to process 1", "stopped 1 SIGTERM"], done.stderr
    (saved,) = (tmp_path / "run/checkpoints").iterdir()
    assert saved.name == "step-00000004"


STOPS = """
# The second process is sent SIGTERM in its fourth step.
import os, signal, sys
from jepa_core import load_recipe, train
from jepa_core.runtime.stop_signals import Stopped
from jepa_core.training.step import TrainingStep

whole = TrainingStep.accumulate


def interrupted(self, parts):
    if self.done == 3 and self.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return whole(self, parts)


TrainingStep.accumulate = interrupted
try:
    train(load_recipe(*sys.argv[1:-1]), sys.argv[-1], watch=[])
except Stopped as signal:
    print("stopped", os.environ["RANK"], signal, flush=True)
"""


@pytest.mark.parametrize(
    ("overrides", "world", "expected"),
    [([], 1, 1), ([], 2, 2), ([], 8, 8), (["train.micro_batch=4"], 1, 2), (["train.micro_batch=2"], 2, 4)],
)
def test_each_process_does_as_many_passes(
    tiny_recipe: Path, overrides: list[str], world: int, expected: int
) -> None:
    assert micro_batches(load_recipe(tiny_recipe, *overrides), Ranks(world_size=world)) == expected


@pytest.mark.parametrize(
    ("overrides", "world", "said"),
    [
        (["train.micro_batch=3"], 1, "train.micro_batch 3 does not divide train.batch_size 8"),
        (
            [], 3,
            "4 micro-batches of 2 (train.batch_size 8) cannot be shared evenly by 3 processes; change "
            "train.micro_batch or their number",
        ),
        (
            ["train.micro_batch=4"], 4,
            "2 micro-batches of 4 (train.batch_size 8) cannot be shared evenly by 4 processes; change "
            "train.micro_batch or their number",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused(
    tiny_recipe: Path, overrides: list[str], world: int, said: str
) -> None:
    with pytest.raises(UserError) as error:
        micro_batches(load_recipe(tiny_recipe, *overrides), Ranks(world_size=world))
    assert str(error.value) == said


def test_a_process_alone_sends_nothing() -> None:
    alone = Ranks()
    values = torch.ones(2)
    alone.barrier()
    assert alone.is_main
    assert alone.broadcast("x") == "x"
    assert alone.gather(3) == [3]
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.mean(values) is values
    assert (world_size(), all_reduce_sum(values) is values) == (1, True)
    module = torch.nn.Linear(1, 1)
    assert alone.wrap(module) is module


DIES = """
# The process of rank DIES ends in its fourth step, in the way that is asked for.
import os, signal, sys
from jepa_core.cli import main
from jepa_core.training.step import TrainingStep

whole = TrainingStep.accumulate
rank, way = int(sys.argv.pop(1)), sys.argv.pop(1)


def ends(self, parts):
    if self.done == 3 and self.ranks.rank == rank:
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("an accident")
    return whole(self, parts)


TrainingStep.accumulate = ends
main()
"""


@pytest.mark.parametrize(("rank", "way"), [(1, "kill"), (1, "raise"), (0, "kill")])
@pytest.mark.long
def test_a_process_that_is_lost_ends_the_others_with_one_line(
    asked: list[str], tmp_path: Path, rank: int, way: str
) -> None:
    script, run = tmp_path / "dies.py", tmp_path / "run"
    script.write_text(DIES, encoding="utf-8")
    done = two(script, rank, way, "train", *asked, "train.checkpoint_every=2", "--run", run)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    (line,) = [line for line in lines if "an accident" not in line]  # which is the lost process's own
    assert line.startswith(f"error: stopped at step 3: process {rank} of 2 (rank {rank}, host ")
    assert line.endswith(
        f"ended, so process {1 - rank} cannot go on; the last good checkpoint is "
        f"{run / 'checkpoints/step-00000002'}"
    )
    assert "gloo" not in done.stderr.replace("error: ", "")
    if rank == 1:
        stopped = read_events(run, "stopped")[-1]
        assert stopped["why"].startswith("error UserError: process 1 of 2 (rank 1, host ")
        assert list(run.glob("lock-*")) == []
    train(load_recipe(*asked, "train.checkpoint_every=2"), run, resume="auto")
    assert logged(run, "loss")[-1] > 0


@pytest.mark.long
def test_an_error_of_the_main_process_is_raised_in_all(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    process = ProcessIdentity.of_this_process()
    (tmp_path / "run/lock-1.json").write_text(json.dumps(vars(process) | {"since": "now"}))
    done = two("-c", COMMAND, "train", *asked, "--run", tmp_path / "run")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert f"in use by process {process.pid} on host" in lines[0]
