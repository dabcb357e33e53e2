"""Workers: what they do with errors, collapses, changed recipes and folders of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.study import cell_run
from jepa_core.study.plan import load_study
from jepa_core.study.worker import no_observers, prepare, work
from jepa_core.study.worker_states import CellStatus
from tests.core.study.conftest import THREE, WriteStudy

pytestmark = pytest.mark.long

ONE = 'recipe = "{recipe}"\nprobes = ["knn"]\nseeds = [0, 1]\n'
TWO_ARMS = ONE + '[arms.a]\n[arms.b]\nset = ["masker.name=random"]\n'


def run(file: Path, **named: Any) -> dict[str, CellStatus]:
    said: list[str] = []
    settings = {"say": said.append, "observers": list} | named
    return {s.cell.id: s for s in work(load_study(file), **settings)}


def states(cells: dict[str, CellStatus]) -> dict[str, str]:
    return {name: status.state for name, status in cells.items()}


def test_cells_are_ordinary_runs_and_are_done_once(
    write_study: WriteStudy, jepa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(TWO_ARMS)
    assert set(states(run(file)).values()) == {"done"}
    folder = file.with_suffix("") / "cells/a/seed-0"
    assert (folder / "recipe.toml").is_file()
    outcome = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    assert (
        outcome["scores"]["knn.top1"]
        == json.loads((folder / "eval.json").read_text())["rows"][0]["scores"]["knn"]["top1"]
    )
    assert outcome["flops"] > 0
    assert outcome["images"] == 48
    assert jepa("eval", folder).code == 0
    monkeypatch.setattr(cell_run, "_train", lambda *_: pytest.fail("a finished cell was trained again"))
    assert set(states(run(file)).values()) == {"done"}
    more = write_study(TWO_ARMS.replace("[0, 1]", "[0, 1]\nlease = 7"))
    assert set(states(run(more)).values()) == {"done"}


def test_new_arms_and_seeds_keep_finished_cells_and_a_changed_recipe_never_mixes(
    write_study: WriteStudy,
) -> None:
    file = write_study(TWO_ARMS)
    first = run(file)
    more = TWO_ARMS.replace("[0, 1]", "[0, 1, 2]") + '[arms.c]\nset = ["predictor.depth=2"]\n'
    second = run(write_study(more))
    assert len(second) == 9
    for name, status in first.items():
        assert second[name].outcome == status.outcome
    changed = run(write_study('set = ["train.steps=5"]\n' + more))
    assert {status.outcome["step"] for status in changed.values()} == {5}
    aside = file.with_suffix("") / "superseded"
    assert len(list(aside.glob("*/seed-*"))) == 9
    again = run(write_study(more))  # the runs of the first recipe are taken back, not trained again
    for name, status in second.items():
        assert again[name].outcome["identity"] == status.outcome["identity"]
        assert again[name].outcome["finished"] == status.outcome["finished"]


def test_a_users_error_stops_its_arm_alone(write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = cell_run._train, []

    def train(cell: Any, *rest: Any) -> Any:
        calls.append(cell.id)
        if cell.arm == "b":
            raise UserError("the data are gone")
        return real(cell, *rest)

    monkeypatch.setattr(cell_run, "_train", train)
    file = write_study(TWO_ARMS)
    cells = run(file)
    assert states(cells) == {
        "a/seed-0": "done",
        "a/seed-1": "done",
        "b/seed-0": "failed",
        "b/seed-1": "stopped",
    }
    assert calls.count("b/seed-0") == 1
    assert cells["b/seed-1"].error == "the data are gone"
    monkeypatch.setattr(cell_run, "_train", real)
    assert states(run(file))["b/seed-1"] == "stopped"
    assert set(states(run(file, retry=True)).values()) == {"done"}


def test_another_error_is_tried_again_twice(write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = cell_run._train, []

    def train(cell: Any, *rest: Any) -> Any:
        calls.append(cell.id)
        if cell.id == "b/seed-1" and calls.count(cell.id) < 3:
            raise RuntimeError(f"the device is away, {calls.count(cell.id)}")
        return real(cell, *rest)

    monkeypatch.setattr(cell_run, "_train", train)
    file = write_study(TWO_ARMS)
    cells = run(file)
    assert set(states(cells).values()) == {"done"}
    assert calls.count("b/seed-1") == 3
    assert cells["b/seed-1"].outcome["attempts"] == 3
    assert "the device is away" in (file.with_suffix("") / "logs/errors.txt").read_text(encoding="utf-8")


def test_an_error_that_stays_fails_its_cell_and_the_same_in_two_stops_the_arm(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = cell_run._train, []

    def train(cell: Any, *rest: Any) -> Any:
        calls.append(cell.id)
        if cell.arm == "b":
            raise RuntimeError("always the same" if many else f"never the same {len(calls)}")
        return real(cell, *rest)

    monkeypatch.setattr(cell_run, "_train", train)
    many = False
    assert [states(run(write_study(TWO_ARMS)))[f"b/seed-{s}"] for s in (0, 1)] == ["failed", "failed"]
    assert calls.count("b/seed-0") == 3
    many, calls[:] = True, []
    cells = run(write_study(TWO_ARMS, "same.toml"))
    assert "the same error in two cells: RuntimeError: always the same" in cells["b/seed-1"].error
    assert calls.count("b/seed-0") + calls.count("b/seed-1") == 2


def test_nan_is_a_result(write_study: WriteStudy, jepa: Callable[..., Any]) -> None:
    """A learning rate of 1e30 diverges; the report says so and counts the cell."""
    text = ONE.replace("[0, 1]", "[0, 1, 2]") + '[arms.a]\n[arms.b]\nset = ["optimizer.lr=1e30"]\n'
    file = write_study(text)
    said = jepa("study", "run", file)
    assert said.code == 0
    folder = file.with_suffix("")
    facts = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert facts["arms"]["b"]["states"] == {"diverged": 3}
    assert facts["arms"]["b"]["n"] == 0
    assert "3 of 3 diverged" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "cells.csv").read_text(encoding="utf-8").count("diverged") >= 3


def test_a_collapse_is_a_result_with_a_score(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cell_run._final_alarm

    def alarm(folder: Path) -> str:
        """The tiny recipe does not collapse in six steps, so its log is read as if it had."""
        log = folder / "metrics.jsonl"
        if "/b/" in str(folder):
            lines = [json.loads(line) | {"feature_std": 0.001} for line in log.read_text().splitlines()]
            log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return real(folder)

    monkeypatch.setattr(cell_run, "_final_alarm", alarm)
    cells = run(write_study(TWO_ARMS), observers=no_observers)
    assert states(cells)["a/seed-0"] == "done"
    assert states(cells)["b/seed-0"] == "collapsed"
    assert "knn.top1" in cells["b/seed-0"].outcome["scores"]
    assert "collapsing" in cells["b/seed-0"].outcome["note"]


def test_another_split_scores_finished_cells_again_without_training(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write_study(TWO_ARMS))
    cells = run(write_study('split = "test"\n' + TWO_ARMS))
    assert set(states(cells).values()) == {"done"}
    folder = cells["a/seed-0"].cell
    table = load_study(write_study(TWO_ARMS)).folder_of(folder) / "eval.json"
    assert json.loads(table.read_text(encoding="utf-8"))["split"] == "test"


def test_folders_of_others_are_refused(
    write_study: WriteStudy, jepa: Callable[..., Any], tmp_path: Path
) -> None:
    first = write_study(TWO_ARMS, "first.toml")
    run(first)
    folder = first.with_suffix("")
    other = write_study(THREE, "other.toml")
    said = jepa("study", "run", other, "--folder", folder)
    assert (said.code, said.out) == (2, "")
    assert "is the folder of another study, 'first'" in said.err
    said = jepa("study", "run", other, "--folder", folder / "cells/a/seed-0")
    assert "is not a study's folder" in said.err
    said = jepa("study", "run", other, "--folder", first)
    assert "is a file" in said.err
    shutil.copy(first, tmp_path / "copy.toml")  # the same study under another name
    assert set(states({s.cell.id: s for s in work(load_study(tmp_path / "copy.toml", folder))}).values()) == {
        "done"
    }


def test_a_changed_file_stops_workers_that_have_the_old_one(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(TWO_ARMS)
    real = cell_run._train

    def train(cell: Any, *rest: Any) -> Any:
        if cell.id == "a/seed-0":
            monkeypatch.setattr(cell_run, "_train", real)
            run(write_study(TWO_ARMS.replace("[0, 1]", "[1]")))
        return real(cell, *rest)

    monkeypatch.setattr(cell_run, "_train", train)
    with pytest.raises(UserError, match="file was changed"):
        run(file)


@pytest.mark.parametrize("equal", ["steps", "images", "flops", "time"])
def test_budgets(write_study: WriteStudy, equal: str) -> None:
    arms = '[arms.a]\n[arms.b]\nset = ["train.batch_size=16"]\n'
    text = ONE.replace("[0, 1]", "[0]") + f'[budget]\nequal = "{equal}"\n' + arms
    cells = run(write_study(text))
    steps = {name: status.outcome["step"] for name, status in cells.items()}
    assert steps["a/seed-0"] == 6
    if equal == "steps":
        assert steps["b/seed-0"] == 6
    elif equal == "time":
        assert steps["b/seed-0"] >= 1
        assert run(write_study(text))["b/seed-0"].outcome == cells["b/seed-0"].outcome  # measured once
    else:
        assert steps["b/seed-0"] == 3


def test_unequal_steps_are_refused_where_they_should_be_equal(write_study: WriteStudy) -> None:
    text = ONE + '[budget]\nequal = "steps"\n[arms.a]\n[arms.b]\nset = ["train.steps=7"]\n'
    with pytest.raises(UserError, match="equal in steps, but the arms have a 6, b 7"):
        run(write_study(text))


def test_time_of_a_cell_as_a_budget(write_study: WriteStudy) -> None:
    text = (
        ONE.replace("[0, 1]", "[0]")
        + '[budget]\nper_cell = "2 s"\n[arms.a]\n[arms.b]\nset = ["predictor.depth=3"]\n'
    )
    study = load_study(write_study(text))

    resolved, _, _ = prepare(study)
    assert resolved.steps["a"] == resolved.steps["b"] > 1
