"""`jepa runs`, `jepa status`, labels of runs, several runs in one `jepa eval`, and `--json` everywhere."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest

from jepa_core import observers
from jepa_core.cli import exchange
from jepa_core.evaluate.table import EvalResult
from jepa_core.runs.events_file import record


@pytest.fixture
def two_runs(jepa, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `runs` with two finished runs, the first of which has labels."""
    monkeypatch.setattr(observers, "standard", lambda: [observers.MetricsWriter(), observers.Journal()])
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    labels = ("--name", "the first", "--tag", "a", "--tag", "b", "--note", "lr: [high]")
    first = jepa("train", tiny_recipe, "train.steps=2", "--run", "runs/one", *labels)
    assert (first.code, first.out) == (0, "2 steps done; the run is in runs/one\n")
    second = jepa("train", tiny_recipe, "train.steps=3", "--run", "runs/two", "--json")
    told = json.loads(second.out)
    assert (told["run"], told["state"], told["step"], told["tags"]) == ("runs/two", "finished", 3, [])
    return tmp_path / "runs"


def test_runs_are_listed_and_told(jepa, two_runs: Path) -> None:
    head, one, two = jepa("runs").out.splitlines()
    assert head.split() == ["run", "state", "step", "scores", "in", "%", "changed", "tags", "recipe"]
    assert one.startswith("runs/one (the first)  finished  2 of 2")
    assert "a, b" in one
    assert two.startswith("runs/two              finished  3 of 3")
    listed = json.loads(jepa("runs", "runs/two", two_runs, "--json").out)
    assert [Path(run["run"]).name for run in listed] == ["two", "one", "two"]
    assert [run["run"] for run in json.loads(jepa("runs", "--tag", "b", "--json").out)] == ["runs/one"]
    assert jepa("runs", "--tag", "c").out == "no runs\n"
    status = jepa("status", "runs/one")
    assert "state         finished\n" in status.out
    assert "checkpoint    runs/one/checkpoints/step-00000002\n" in status.out
    assert "note          lr: [high]\n" in status.out
    assert json.loads(jepa("status", "runs/one", "--json").out)["last_good_checkpoint"].endswith("02")


def test_one_run_that_cannot_be_read_hides_no_other(jepa, two_runs: Path) -> None:
    (two_runs / "one/recipe.toml").write_text("= \x1b[31m")
    said = jepa("runs", "--json")
    assert [run["run"] for run in json.loads(said.out)] == ["runs/two"]
    assert said.err.startswith("left out: recipe runs/one/recipe.toml is not valid TOML")
    assert "\x1b" not in said.err


def test_exit_codes_for_schedulers(jepa, two_runs: Path) -> None:
    assert jepa("status", "runs/one", "--exit-code").code == 0
    record(two_runs / "two", "started", 0, total_steps=9)
    assert jepa("status", "runs/two", "--exit-code").code == 75
    record(two_runs / "two", "stopped", 3, why="error UserError: the loss is nan")
    failed = jepa("status", "runs/two", "--exit-code")
    assert failed.code == 2
    assert "failed: error UserError: the loss is nan" in failed.out
    assert jepa("status", "runs/two").code == 0


def test_without_runs_nothing_is_listed(jepa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert jepa("runs") == (0, "no runs\n", "")
    assert json.loads(jepa("runs", "--json").out) == []


def test_labels_go_with_an_overwritten_run(jepa, two_runs: Path, tiny_recipe: Path) -> None:
    jepa("train", tiny_recipe, "train.steps=1", "--run", "runs/one", "--overwrite", "--tag", "new")
    (told,) = json.loads(jepa("runs", "runs/one", "--json").out)
    assert (told["tags"], told["name"], told["note"]) == (["new"], "", "")


def test_several_runs_are_evaluated_with_overrides_into_a_folder(jepa, two_runs: Path) -> None:
    said = jepa(
        *("eval", "runs/one", "runs/two", "probes.knn.k=2", "--probe", "knn", "--probe", "linear"),
        *("--images", 20, "--out", "tables", "--json"),
    )
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert [table["run"] for table in told] == ["runs/one", "runs/two"]
    assert all(set(row["scores"]) == {"knn", "linear"} for table in told for row in table["rows"])
    assert not list(two_runs.rglob("eval.json")), "with --out a run stays as it is"
    assert len(list((two_runs.parent / "tables").glob("*.json"))) == 2
    one = jepa("eval", "runs/one", "--probe", "knn,knn", "--json")
    table = json.loads(one.out)
    assert table == json.loads((two_runs / "one/eval.json").read_text())
    assert EvalResult.model_validate(table).rows[0].scores.keys() == {"knn"}
    shown = jepa("eval", "runs/one", "runs/two", "--probe", "knn").out
    assert shown.index("run  runs/one") < shown.index("run  runs/two")


def test_a_probe_that_is_taken_out_is_not_evaluated(jepa, two_runs: Path, tiny_recipe: Path) -> None:
    for words in (["eval", "runs/one", "probes.linear=false", "--json"], ["eval", "runs/three", "--json"]):
        if words[1] == "runs/three":
            jepa("train", tiny_recipe, "train.steps=1", "probes.linear=false", "--run", "runs/three")
            jepa("train", "--resume", "runs/three")
        table = json.loads(jepa(*words).out)
        assert table["rows"][0]["scores"].keys() == {"knn"}


def test_what_a_swap_dropped_is_said_once_the_run_has_begun(jepa, tiny_recipe: Path, tmp_path: Path) -> None:
    swap = ("encoder.name=vit_tiny_patch16_224", "encoder.heads=2", "encoder.width=32")
    said = jepa("train", tiny_recipe, "train.steps=1", *swap, "--run", tmp_path / "run")
    line = (
        "a swapped component starts from its own defaults: encoder official_tiny → vit_tiny_patch16_224 "
        "without depth = 2"
    )
    assert said.err.splitlines().count(line) == 1
    assert line in jepa("recipes", "show", tiny_recipe, *swap).err
    assert line in jepa("recipes", "show", tiny_recipe, *swap, "--json").err
    assert jepa("recipes", "show", tiny_recipe, "encoder.heads=4", "masker=random").err == ""
    failed = jepa("train", tiny_recipe, *swap, "encoder.heads=5")
    assert (failed.code, len(failed.err.splitlines())) == (2, 1), "an error is the only line"


def test_a_report_and_an_export_are_told_as_json(jepa, two_runs: Path) -> None:
    told = json.loads(
        jepa("report", "runs/one", "runs/two", "--no-probes", "--comparison-only", "--json").out
    )
    assert told["page"] == "runs/one/report.html"
    assert "lr: [high]" in jepa("report", "runs/one", "--no-probes").out or Path(told["page"]).exists()
    written = json.loads(jepa("export", "runs/one", "--to", "safetensors", "--json").out)
    assert (Path(written["path"]).exists(), written["step"]) == (True, 2)
    imported = jepa("import", written["path"], "--run", "runs/imported", "--json")
    assert imported.code == 0, imported.err
    assert json.loads(imported.out)["run"] == "runs/imported"
    (status,) = json.loads(jepa("runs", "runs/imported", "--json").out)
    assert status["state"] == "imported"


def test_without_a_network_only_the_cache_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(exchange, "getproxies", dict)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    exchange.fail_fast_without_network()
    assert constants.HF_HUB_OFFLINE is True
    assert logging.getLogger("huggingface_hub").level == logging.ERROR


def test_behind_a_proxy_the_network_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(exchange, "getproxies", lambda: {"https": "http://proxy"})
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("not asked"))
    exchange.fail_fast_without_network()
    assert constants.HF_HUB_OFFLINE is False
