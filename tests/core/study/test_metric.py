"""Scores of eval.json by name, those of evaluations that see the model included."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from jepa_core import UserError, load_recipe
from jepa_core.study.metric import check_metric, failure_of, is_lower_better, scores_of, shares_of
from jepa_core.study.pairs import compare_folders
from jepa_core.study.statistics import compare


def score(value: float | None, unit: str = "", better: str = "higher") -> dict[str, Any]:
    return {"value": value, "se": None, "unit": unit, "chance": None, "better": better}


def evaluation(name: str, task: str | None, **scores: dict[str, Any]) -> dict[str, Any]:
    rows = [{"name": "trained", "scores": scores}, {"name": "random twin", "scores": scores}]
    return {"name": name, "task": task, "split": "val", "count": 4, "rows": rows if scores else []}


def table(rmse: float = 0.5) -> dict[str, Any]:
    row = {"rankme": 3.0, "feature_std": 1.0, "scores": {"knn": {"top1": 0.5}}, "name": "trained"}
    return {
        "rows": [row],
        "split": "val",
        "evaluations": [
            evaluation("retrieval", None, r1=score(0.25, "share"), r5=score(None, "share")),
            evaluation("regression", "x", r2=score(0.9), rmse=score(rmse, "m", "lower")),
            evaluation("regression", "y", r2=score(0.1), rmse=score(2.0, "m", "lower")),
            {**evaluation("broken", None), "error": "no goal"},
        ],
    }


def test_scores_of_evaluations_have_names_the_first_task_without_its_own() -> None:
    scores = scores_of(table())
    assert scores["evaluations.retrieval.r1"] == 0.25
    assert "evaluations.retrieval.r5" not in scores
    assert scores["evaluations.regression.rmse"] == 0.5
    assert scores["y/evaluations.regression.rmse"] == 2.0
    assert scores["knn.top1"] == 0.5
    assert [name for name in shares_of(table()) if name.startswith("evaluations")] == [
        "evaluations.retrieval.r1",
        "evaluations.retrieval.r5",
    ]
    old = {key: value for key, value in table().items() if key != "evaluations"}
    assert set(scores_of(old)) == {"rankme", "feature_std", "knn.top1"}


def test_direction_and_reason_are_the_evaluations_own() -> None:
    assert is_lower_better(table(), "evaluations.regression.rmse")
    assert not is_lower_better(table(), "evaluations.retrieval.r1")
    assert not is_lower_better(table(), "knn.top1")
    assert failure_of(table(), "evaluations.broken.r1") == "no goal"
    assert failure_of(table(), "evaluations.retrieval.r1") == ""


def test_a_lower_error_is_better() -> None:
    low, high = {0: 1.0, 1: 1.1, 2: 0.9}, {0: 2.0, 1: 2.2, 2: 2.1}
    assert compare(low, high, maximise=False).verdict == "better"
    assert compare(high, low, maximise=False).verdict == "worse"
    assert compare(high, low).verdict == "better"
    assert "maximise" not in compare(low, high).facts()


def test_a_metric_is_checked_by_its_evaluation(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "evaluations.zero_shot=false")
    check_metric("evaluations.retrieval.r1", recipe, ())
    check_metric("speed/evaluations.regression.rmse", recipe, ())
    for wrong in ("evaluations.retreival.r1", "evaluations.zero_shot.top1", "evaluations.retrieval"):
        with pytest.raises(
            UserError, match=r"unknown metric 'evaluations.*; known: .*evaluations\.retrieval\."
        ):
            check_metric(wrong, recipe, ())


def test_arms_are_compared_by_an_evaluation(tmp_path: Path) -> None:
    for arm, errors in (("a", (0.5, 0.6, 0.55)), ("b", (1.5, 1.7, 1.4))):
        for seed, error in enumerate(errors):
            folder = tmp_path / arm / f"seed-{seed}"
            folder.mkdir(parents=True)
            (folder / "eval.json").write_text(json.dumps(table(error)))
    paired = compare_folders(tmp_path / "a", tmp_path / "b", "evaluations.regression.rmse")
    assert (paired.comparison.verdict, paired.comparison.won, paired.percent) == ("better", 3, False)
    assert math.isclose(paired.comparison.difference or 0, -0.98333333, rel_tol=1e-6)
    assert compare_folders(tmp_path / "a", tmp_path / "b", "evaluations.retrieval.r1").percent
