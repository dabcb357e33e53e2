"""The page, its pictures and tables, cells.csv and study.json, of made-up scores with a known answer."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.study.ledger import Record
from jepa_core.study.pairs import compare_folders
from jepa_core.study.plan import Study, load_study
from jepa_core.study.results import StudyResult, summarise, write_results
from jepa_core.study.settings import StudySettings
from jepa_core.study.store import check_study
from jepa_core.study.tables import to_csv, to_latex, to_markdown
from jepa_core.study.words import caveats, number, probability, sentence
from jepa_core.study.worker_states import CellStatus
from jepa_core.study.write import charts, render
from tests.core.study.conftest import WriteStudy

DOCS = Path(__file__).parents[3] / "docs"
SIX = """
recipe = "{recipe}"
probes = ["knn"]
baseline = "a"
[arms.a]
[arms.better]
set = ["predictor.depth=2"]
[arms.same]
set = ["predictor.depth=3"]
[arms.bad]
set = ["predictor.depth=4"]
"""
SHIFTS = {"a": 0.0, "better": 0.02, "same": 0.0, "bad": -0.05}


def made_up(study: Study, shifts: dict[str, float] = SHIFTS) -> StudyResult:
    """Scores of .5 + a shift + some noise; the first seed of `bad` diverged."""
    cells = []
    for cell in study.cells():
        noise = 0.001 * ((7 * cell.seed + len(cell.arm)) % 5)
        score = 0.5 + 0.01 * cell.seed + shifts[cell.arm.partition(",")[0]] + noise
        state = "diverged" if (cell.arm, cell.seed) == ("bad", 0) else "done"
        outcome: dict[str, Any] = {"identity": cell.identity, "state": state, "step": 6, "images": 48}
        outcome |= {"train_seconds": 60.0, "cpu_seconds": 50.0, "flops": 1e9, "host": "h", "device": "d"}
        outcome |= {"commit": "0123456789abcdef", "dirty": False, "eval_seconds": 5.0, "attempts": 0}
        outcome |= {"scores": {"knn.top1": score}, "shares": ["knn.top1"], "note": ""}
        if state == "diverged":
            outcome |= {"scores": {}, "note": "step 3: the loss is nan"}
        cells.append(CellStatus(cell, Record((), outcome), state))  # type: ignore[arg-type]
    return summarise(study, cells)


@pytest.fixture
def result(write_study: WriteStudy) -> StudyResult:
    return made_up(load_study(write_study(SIX)))


def test_the_statistics_of_each_arm(result: StudyResult) -> None:
    facts = result.facts()
    assert facts["unit"] == "percent"
    arms = facts["arms"]
    assert arms["a"]["difference"] is None
    assert arms["better"]["difference"] == pytest.approx(2.0, abs=0.2)
    assert arms["better"]["low"] > 0
    assert (arms["better"]["won"], arms["better"]["n"], arms["better"]["p_sign_flip"]) == (6, 6, 2 / 64)
    assert arms["better"]["p_holm"] == pytest.approx(3 * 2 / 64)
    assert arms["better"]["rho"] > 0.9
    assert arms["better"]["verdict"] == "better"
    assert arms["bad"]["states"] == {"diverged": 1, "done": 5}
    assert (arms["bad"]["n"], arms["bad"]["pairs"]) == (5, 5)


def test_an_arm_that_diverges_is_never_better(write_study: WriteStudy) -> None:
    found = made_up(load_study(write_study(SIX)), SHIFTS | {"bad": 0.1})
    arm = next(arm for arm in found.arms if arm.arm.name == "bad")
    assert arm.comparison is not None
    assert arm.comparison.verdict == "better"
    assert arm.verdict == "cannot tell"
    assert "cannot tell" in sentence(found, arm)
    assert "1 of 6 diverged" in sentence(found, arm)


def test_sentences(result: StudyResult) -> None:
    texts = {arm.arm.name: sentence(result, arm) for arm in result.arms}
    interval = r"\+[12]\.\d \[\+[\d.]+, \+[\d.]+\] points against a"
    assert re.match(interval + r", better on 6 of 6 seeds, p \.031 \(Holm \.094\)", texts["better"])
    assert texts["same"].startswith("cannot tell: ")
    assert texts["a"].endswith("over 6 seeds")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.84, "+1.8"),
        (0.93, "+.93"),
        (-0.4, "-.40"),
        (0.0, "+0.0"),
        (12.34, "+12.3"),
        (-0.04, "-.040"),
        (None, "–"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value, signed=True) == text


def test_probabilities() -> None:
    assert [probability(p) for p in (0.03125, 1.0, 0.0078, 0.5, None)] == [".031", "1", ".0078", ".5", "–"]


def test_cells_csv_and_study_json(result: StudyResult) -> None:
    result.study.folder.mkdir()
    write_results(result)
    with (result.study.folder / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:9] == [
        *("arm", "seed", "state", "metric", "train_seconds", "cpu_seconds", "flops", "images", "folder")
    ]
    assert len(rows) == 24
    first = {row["seed"]: float(row["metric"]) for row in rows if row["arm"] == "a"}
    other = {row["seed"]: float(row["metric"]) for row in rows if row["arm"] == "better"}
    facts = json.loads((result.study.folder / "study.json").read_text(encoding="utf-8"))
    mean = 100 * sum(other[seed] - first[seed] for seed in first) / 6
    assert facts["arms"]["better"]["difference"] == pytest.approx(mean)
    bad = [row for row in rows if row["state"] == "diverged"]
    assert [(row["arm"], row["seed"], row["metric"]) for row in bad] == [("bad", "0", "")]


def test_the_page_is_one_file_that_fetches_nothing(result: StudyResult) -> None:
    logs = {"a": [[{"step": s, "loss": 1 / s, "rankme": float(s)} for s in range(1, 9)]] * 3}
    drawn = charts(result, logs)
    assert [chart.name for chart in drawn] == ["intervals", "seeds", "cost", "curve-loss", "curve-rankme"]
    assert all(chart.png().startswith(b"\x89PNG") for chart in drawn)
    page = render(result, drawn)
    assert not re.search(r"<script|https?:|@import|url\((?!#)|src=", page)
    assert page == render(result, charts(result, logs))
    assert page.count("<svg") == len(drawn)
    assert "1 of 6 diverged" in page
    assert "step 3: the loss is nan" in page
    assert "0123456789ab" in page


def test_a_grid_of_two_settings_is_a_heat_map(write_study: WriteStudy) -> None:
    text = SIX.split("[arms.a]")[0].replace('baseline = "a"', "") + "[arms.a]\n[grid]\n"
    text += '"predictor.depth" = [1, 2, 3]\n"optimizer.lr" = [1e-3, 1e-2]\n'
    found = made_up(load_study(write_study(text)))
    assert "grid-a" in [chart.name for chart in charts(found, {})]


def test_what_a_reader_must_know(write_study: WriteStudy) -> None:
    few = made_up(load_study(write_study('seeds = [0, 1, 2]\nsplit = "test"\n' + SIX)))
    texts = " ".join(caveats(few))
    assert "No test can reach p = .05 with 3 pairs: the smallest p of the sign-flip test is .25" in texts
    assert "is chosen on test" in texts
    assert few.facts()["chosen_on_test"] is True
    six = made_up(load_study(write_study(SIX)))
    assert caveats(six) == []
    assert six.facts()["chosen_on_test"] is False


def test_three_data_sets_are_aggregated(write_study: WriteStudy) -> None:
    sets = "".join(f'[datasets.{n}]\nset = ["transform.flip=0.{n[1]}"]\n' for n in ("d1", "d2", "d3"))
    found = made_up(load_study(write_study(SIX + sets)))
    arms = {arm.arm.name: arm for arm in found.arms}
    assert arms["better"].comparison is not None
    assert arms["better"].comparison.pairs == 6
    assert arms["better"].across is not None
    assert arms["better"].across.improvement is not None
    assert arms["better"].across.improvement > 0.5
    assert arms["a"].across is not None
    assert arms["a"].across.improvement is None
    assert "P(improvement)" in render(found, [])


def test_tables(result: StudyResult) -> None:
    assert len(list(csv.reader(to_csv(result).splitlines()))) == 5
    assert to_markdown(result).splitlines()[1].startswith("| --- | ---: |")
    latex = to_latex(result)
    assert latex.count(r"\\") == 5
    assert r"knn.top1, \%" in latex


def test_a_share_is_in_percent_and_a_rank_is_not(write_study: WriteStudy) -> None:
    found = made_up(load_study(write_study(SIX)))
    assert next(arm.mean for arm in found.arms) == pytest.approx(52.7, abs=0.2)
    for status in found.cells:
        assert status.record.outcome is not None
        status.record.outcome["shares"].clear()  # type: ignore[attr-defined]
    plain = summarise(found.study, found.cells)
    assert plain.facts()["unit"] == ""
    assert next(arm.mean for arm in plain.arms) == pytest.approx(0.527, abs=0.002)


def table_of(score: float, split: str = "val") -> str:
    row = {"name": "target", "scores": {"knn": {"top1": score}}, "rankme": 3.0, "feature_std": 0.5}
    return json.dumps({"rows": [row], "split": split, "others": []})


def write_arm(folder: Path, scores: dict[int, float], split: str = "val") -> Path:
    for seed, score in scores.items():
        (folder / f"seed-{seed}").mkdir(parents=True)
        (folder / f"seed-{seed}/eval.json").write_text(table_of(score, split), encoding="utf-8")
    return folder


def test_two_arms_are_compared_by_their_folders(tmp_path: Path, jepa: Callable[..., Any]) -> None:
    first = write_arm(tmp_path / "a", {seed: 0.5 + 0.01 * seed for seed in range(6)})
    second = write_arm(tmp_path / "b", {seed: 0.48 + 0.011 * seed for seed in range(6)})
    found = compare_folders(first, second, "knn.top1")
    assert found.comparison.difference == pytest.approx(1.75)
    said = jepa("study", "compare", first, second)
    assert said.out.startswith("knn.top1: +1.8 [")
    assert json.loads(jepa("study", "compare", first, second, "--json").out)["won"] == 6
    third = write_arm(tmp_path / "c", {seed: 0.55 - 0.01 * seed for seed in range(6)})
    assert "cannot tell" in jepa("study", "compare", first, third).out


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    first = write_arm(tmp_path / "a", {0: 0.5, 1: 0.6})
    with pytest.raises(UserError, match="are not paired: seed-2 is in one of them alone"):
        compare_folders(first, write_arm(tmp_path / "b", {0: 0.5, 1: 0.6, 2: 0.7}), "knn.top1")
    with pytest.raises(UserError, match="different splits"):
        compare_folders(first, write_arm(tmp_path / "c", {0: 0.5, 1: 0.6}, "test"), "knn.top1")
    with pytest.raises(UserError, match="unknown metric"):
        compare_folders(first, first, "knn.top5")
    with pytest.raises(UserError, match="no folder"):
        compare_folders(first, tmp_path / "none", "knn.top1")
    with pytest.raises(UserError, match="holds no finished runs"):
        compare_folders(first, tmp_path / "a/seed-0", "knn.top1")
    (first / "seed-1/eval.json").write_text('{"rows": [', encoding="utf-8")
    with pytest.raises(UserError, match="is no probe table"):
        compare_folders(first, first, "knn.top1")


def test_a_report_before_the_first_cell(write_study: WriteStudy, jepa: Callable[..., Any]) -> None:
    file = write_study(SIX)
    said = jepa("study", "report", file)
    assert said.code == 2
    assert "`jepa study run` makes it" in said.err
    said = jepa("study", "status", file, "--json")
    assert json.loads(said.out)["states"] == {"waiting": 24}
    assert not file.with_suffix("").exists()


@pytest.mark.parametrize("name", ["masks", "masks-time", "encoders"])
def test_the_published_studies_resolve(name: str, tmp_path: Path) -> None:
    study = load_study(DOCS / f"studies/{name}.toml", tmp_path)
    check_study(study)
    assert len(study.settings.seeds) >= 6


def test_the_page_of_the_docs_names_every_setting(write_study: WriteStudy) -> None:
    text = (DOCS / "studies.md").read_text(encoding="utf-8")
    for name in StudySettings.model_fields:
        assert re.search(rf"[`\[.]{name}\b", text), name
    block = re.search(r"```toml\n(.*?)```", text, re.S)
    assert block is not None
    check_study(load_study(write_study(block[1], "docs.toml")))
