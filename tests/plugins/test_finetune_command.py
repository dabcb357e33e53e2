"""`jepa finetune`: two runs and a table, stopped and gone on with, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from jepa_core import hookimpl, plugins
from jepa_core.evaluate.evaluations import latest_table
from jepa_core.runs.checkpoints import list_checkpoints
from jepa_core.runs.status import read_status
from tests.conftest import Said
from tests.made_runs import make_run

Jepa = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, tiny_recipe: Path) -> Path:
    make_run(tmp_path / "first", tiny_recipe)
    return tmp_path / "first"


class StopAt:
    """An observer that sends SIGINT, as Ctrl-C does, at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def jepa_step_ended(self, run: Any, step: int, metrics: Any) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def stop_at() -> Iterator[Callable[[int], None]]:
    registry, added = plugins.registry(), []

    def add(step: int) -> None:
        added.append(StopAt(step))
        registry.register(added[-1], f"stop at {step}")

    yield add
    for observer in added:
        registry.manager.unregister(observer)


def weights(folder: Path) -> dict[str, list[Any]]:
    tensors = load_file(list_checkpoints(folder)[-1] / "model.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.slow
def test_it_trains_two_runs_and_compares_them(run: Path, jepa: Jepa) -> None:
    said = jepa("finetune", run, "--labels", "12", "--steps", 4, "--split", "val")
    assert said.code == 0, said.err
    own, scratch = run.with_name("first-finetune-12"), run.with_name("first-finetune-12-scratch")
    assert {read_status(folder).state for folder in (own, scratch)} == {"finished"}
    lines = [line.strip() for line in said.out.splitlines() if line.strip()]
    rows = [line.split("  ")[0] for line in lines[2:7]]
    assert rows == [
        "fine-tuned",
        "same network from random weights",
        "linear probe, frozen encoder",
        "linear probe, random frozen encoder",
        "linear probe, pixels",
    ]
    assert "Trained with 12 labels a class: 24 images." in " ".join(lines)
    assert lines[-1] == f"The runs are in {own} and {scratch}"
    table = latest_table(own, "val")
    assert table is not None
    assert [one.name for one in table.evaluations] == ["accuracy"]

    again = jepa("finetune", run, "--labels", "12", "--steps", 4, "--split", "val", "--json")
    facts = json.loads(again.out)
    assert latest_table(own, "val") == table, "neither trained nor scored again"
    assert facts["rows"][0]["top1"] == table.evaluations[0].own["top1"].value
    assert (facts["run"], facts["scratch"]) == (str(own), str(scratch))

    assert jepa("report", own).code == 0
    page = (own / "report.html").read_text(encoding="utf-8")
    assert "Guesses by class" in page
    assert "accuracy" in page


@pytest.mark.slow
def test_stopped_it_exits_with_75_and_goes_on_bit_for_bit(
    run: Path, jepa: Jepa, stop_at: Callable[[int], None]
) -> None:
    words = ("finetune", run, "--labels", "all", "--steps", 6, "--no-twin", "train.log_every=1")
    assert jepa(*words, "--run", run.with_name("whole"), "--split", "val").code == 0
    stop_at(3)
    part = run.with_name("part")
    stopped = jepa(*words, "--run", part, "--split", "val")
    assert stopped.code == 75
    assert f"stopped by SIGINT; jepa train --resume {part} goes on from step-00000003" in stopped.err
    assert jepa(*words, "--run", part, "--split", "val").code == 0
    assert weights(part) == weights(run.with_name("whole"))
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (part, run.with_name("whole"))
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def npz(folder: Path, name: str, labels: np.ndarray[Any, Any] | None) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / name, images=images, **({} if labels is None else {"labels": labels}))
    return folder / name


def refused(jepa: Jepa, *words: object) -> str:
    """The one line that the command answers."""
    said = jepa("finetune", *words)
    assert said.code == 2
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("word", ["0%", "0", "150%", "some"])
def test_labels_that_are_none(run: Path, jepa: Jepa, word: str) -> None:
    assert refused(jepa, run, "--labels", word) == (
        f"--labels is {word!r}; expected a share above 0% and up to 100%, a number of labels a class from "
        "1 on, or all"
    )


def test_more_labels_than_there_are(run: Path, jepa: Jepa) -> None:
    line = refused(jepa, run, "--labels", "500")
    assert line.startswith("data.per_class is 500, and the class '0' has 2")
    assert line.endswith("labelled training samples")


def test_no_run(run: Path, jepa: Jepa) -> None:
    assert refused(jepa, run.parent) == f"{str(run.parent)!r} is not a run: it holds no recipe.toml"
    assert refused(jepa, run / "none") == f"{str(run / 'none')!r} is not a run: it holds no recipe.toml"


def test_data_without_labels(tmp_path: Path, tiny_recipe: Path, jepa: Jepa) -> None:
    make_run(tmp_path / "plain", tiny_recipe, f"data.path={npz(tmp_path, 'plain.npz', None)}")
    assert "has no labels; expected samples with classes" in refused(jepa, tmp_path / "plain")


def test_data_of_one_class(tmp_path: Path, tiny_recipe: Path, jepa: Jepa) -> None:
    file = npz(tmp_path, "one.npz", np.zeros(40, dtype=np.int64))
    make_run(tmp_path / "one", tiny_recipe, f"data.path={file}")
    assert refused(jepa, tmp_path / "one").startswith("the data have one class, '0'; a classifier tells two")


def test_an_unknown_task(run: Path, jepa: Jepa) -> None:
    assert refused(jepa, run, "--task", "count") == (
        "task 'count': the data can be labelled in one way only; leave the task out"
    )


def test_an_encoder_of_something_else_than_images(run: Path, jepa: Jepa) -> None:
    fields = {"views.state": {"kind": "vector", "shape": [6]}}
    (run / "fields.json").write_text(json.dumps(fields), encoding="utf-8")
    assert refused(jepa, run) == (
        f"the encoder 'official_tiny' of {str(run)!r} reads views.state, a vector; jepa finetune takes "
        "encoders of images or clips"
    )


def test_a_folder_with_another_run(run: Path, tiny_recipe: Path, jepa: Jepa) -> None:
    make_run(run.with_name("other"), tiny_recipe)
    other = run.with_name("other")
    assert refused(jepa, run, "--run", other, "--labels", "3") == (
        f"{str(other)!r} holds another run (tiny); name another folder with --run"
    )


def test_other_settings_than_those_of_the_run_in_the_folder(run: Path, jepa: Jepa) -> None:
    words = (run, "--labels", "3", "--steps", 1, "--no-twin", "--split", "val")
    assert jepa("finetune", *words).code == 0
    line = refused(jepa, *words, "optimizer.lr=0.5")
    assert line.startswith("the recipe is not the run's: optimizer.lr (0.001 → 0.5)")


def test_an_unknown_split_and_setting(run: Path, jepa: Jepa) -> None:
    assert refused(jepa, run, "--split", "all").startswith("unknown split 'all'; known: test, train, val")
    assert refused(jepa, run, "optimizer.lrr=1").startswith("unknown setting 'optimizer.lrr'")
