"""Evaluations that see the model on the report's pages: of one run, and of several side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jepa_core.evaluate.evaluations import read_table, save_table
from jepa_core.evaluate.run import evaluate_run
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore, make_rows, share_score
from jepa_core.report.write import write_report
from tests.made_runs import make_run


def table(hit: float, error: float, count: int = 10, **more: str) -> EvaluationTable:
    hits = [1.0] * round(hit * count) + [0.0] * (count - round(hit * count))
    scores = {"r1": share_score(hits, 0.1), "rmse": MetricScore(value=error, unit="m<s>", better="lower")}
    twin = {"r1": share_score([0.0] * count, 0.1), "rmse": MetricScore(value=9, unit="m<s>", better="lower")}
    rows = make_rows({"trained": scores, "random twin": twin})
    return EvaluationTable(name="recall", split="test", count=count, samples="pairs", rows=rows, **more)


@pytest.fixture
def runs(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two recipes, each with an evaluation of its own; the second recipe with two seeds."""
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    made = []
    for name, overrides, own in (
        ("low", (), table(0.2, 0.5)),
        ("high-s0", ("masker.name=random",), table(0.8, 1.5)),
        ("high-s1", ("masker.name=random", "seed=4"), table(0.6, 2.5)),
    ):
        folder = tmp_path / name
        make_run(folder, tiny_recipe, *overrides)
        result = evaluate_run(folder, ["knn"], evaluations=[])
        save_table(folder / "eval.json", result.model_copy(update={"evaluations": (own,)}))
        made.append(folder)
    return made


def text(page: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", page).split())


def test_a_run_shows_its_tables_with_what_was_counted(runs: list[Path]) -> None:
    page = write_report(runs[:1], images=4).read_text(encoding="utf-8")
    section = page.partition('id="run0-evaluations"')[2].partition("</section>")[0]
    assert "What the model does" in section
    assert "m&lt;s&gt;" in section
    assert "recall r1, % rmse, m&lt;s&gt; trained 20.0 ± 12.6 0.5 random twin 0.0 ± 0.0 9" in text(section)
    assert "Scored on 10 pairs of the test split. ± one standard error; chance 10.0 % (r1)" in text(section)


def test_a_failed_evaluation_says_why(runs: list[Path]) -> None:
    failed = EvaluationTable(name="broken", split="test", count=0, rows=(), error="no goal <was> given")
    result = read_table(runs[0] / "eval.json")
    save_table(runs[0] / "eval.json", result.model_copy(update={"evaluations": (failed,)}))
    page = write_report(runs[:1], images=4).read_text(encoding="utf-8")
    assert "Left out: no goal &lt;was&gt; given." in page


def test_several_runs_stand_side_by_side_the_best_by_direction(runs: list[Path]) -> None:
    page = write_report(runs, comparison_only=True).read_text(encoding="utf-8")
    part = page.partition("<h3>recall</h3>")[2].partition("<h3>")[0].partition("</table>")[0]
    low, high, twin = (row for row in part.split("<tr>")[2:])
    assert "low" in low
    assert low.count("best") == high.count("best") == 2, "a class and a word for those who do not see it"
    assert "70.0" in high, "the mean over two seeds"
    assert "best" in low.partition("0.5")[0].rpartition("<td")[2], "the lower error"
    assert "random twin" in twin
    assert "Of several seeds the mean" in page


def test_another_number_of_samples_is_another_table(runs: list[Path]) -> None:
    result = read_table(runs[0] / "eval.json")
    save_table(runs[0] / "eval.json", result.model_copy(update={"evaluations": (table(0.5, 1, count=8),)}))
    page = write_report(runs, comparison_only=True).read_text(encoding="utf-8")
    assert page.count("<h3>recall</h3>") == 2
