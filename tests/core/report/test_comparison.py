"""Several runs on one page: seeds of one recipe, baselines, and scores that must not be subtracted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from jepa_core import UserError
from jepa_core.evaluate.predictions import Predictions, save_predictions
from jepa_core.report import write_report
from jepa_core.report.comparison import Comparison, Table, compare, configuration_table, run_table
from jepa_core.report.configurations import configurations
from jepa_core.report.curves import mean_of
from jepa_core.report.intervals import estimate, t_quantile
from jepa_core.report.write import read_runs
from tests.conftest import Said
from tests.core.report.made_studies import make_study, make_study_run
from tests.core.report.test_report import headings, text


def comparison_of(folder: Path, baseline: str | None = None) -> Comparison:
    return compare(read_runs([folder])[0], baseline)


def column(table: Table, title: str) -> dict[str, str]:
    """A column's texts by row."""
    place = list(table.head).index(title) - 1
    return {row.name: f"{row.cells[place].text} {row.cells[place].spread}".strip() for row in table.rows}


def three_seeds(folder: Path) -> Path:
    """Two recipes with three seeds each; the second is better by 1, 2 and 3 points."""
    for seed, (one, gain) in enumerate([(0.40, 0.01), (0.43, 0.02), (0.37, 0.03)]):
        make_study_run(folder / f"union-s{seed}", knn=one, seed=seed, steps=5)
        path = folder / f"random-s{seed}"
        make_study_run(path, "masker.name=random", knn=one + gain, seed=seed, steps=5)
    return folder


def test_the_interval_is_students() -> None:
    degrees = [*range(1, 60), 100, 1000]
    assert [t_quantile(d) for d in degrees] == pytest.approx(student.ppf(0.975, degrees), abs=1e-4)
    values = [40.0, 43.0, 37.0]
    expected = student.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert estimate(values).half == pytest.approx(expected, rel=1e-4)
    assert estimate([1.0]).half is None


def test_seeds_of_one_recipe_are_one_row_with_its_interval(tmp_path: Path) -> None:
    comparison = comparison_of(three_seeds(tmp_path))
    groups = [(group.name, len(group.runs)) for group in comparison.configurations]
    assert groups == [("random", 3), ("union", 3)]
    table = configuration_table(comparison)
    half = student.ppf(0.975, 2) * 3 / 3**0.5
    assert column(table, "kNN, %")["union"] == f"40.0 ± {half:.1f}"
    assert column(table, "seeds") == {"random": "3", "union": "3"}
    gains = [10.0, 13.0, 7.0]
    assert column(table, "over random twin")["union"] == f"+10.0 ± {estimate(gains).half:.1f}"


def test_what_is_not_learned_from_makes_no_new_configuration(tmp_path: Path) -> None:
    make_study_run(tmp_path / "a-0", steps=5)
    make_study_run(
        tmp_path / "a-1", "train.device=cpu", "train.log_every=7", "data.workers=2", seed=1, steps=5
    )
    make_study_run(tmp_path / "b", "optimizer.lr=1e-4", steps=5)
    groups = configurations(read_runs([tmp_path])[0])
    assert [(group.name, group.seeds) for group in groups] == [("a", "0, 1"), ("b", "0")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mb-s0", "mb-s1"], "mb"),
        (["mb/seed-0", "mb/seed-12"], "mb"),
        (["seed0/mb", "seed1/mb"], "mb"),
        (["run-1", "run-11"], "run"),
        (["study/left", "study/right"], "study"),
    ],
)
def test_a_configuration_is_called_what_its_runs_share(
    tmp_path: Path, names: list[str], expected: str
) -> None:
    for seed, name in enumerate(names):
        make_study_run(tmp_path / name, seed=seed, steps=2)
    groups = configurations(read_runs([tmp_path])[0])
    assert [group.name for group in groups] == [expected]


def test_two_configurations_never_share_a_name(tmp_path: Path) -> None:
    for lr in ("1e-3", "1e-4"):
        for seed in (0, 1):
            make_study_run(tmp_path / f"x-{lr}/s{seed}", f"optimizer.lr={lr}", seed=seed, steps=2)
    one, other = configurations(read_runs([tmp_path])[0])
    assert one.name != other.name


def test_differences_to_a_configuration_are_taken_seed_by_seed(tmp_path: Path) -> None:
    """The pairs differ by 1, 2 and 3 points: their interval is much narrower than that of the means."""
    comparison = comparison_of(three_seeds(tmp_path), "union")
    over = column(configuration_table(comparison), "over union")
    half = student.ppf(0.975, 2) * 1 / 3**0.5
    assert over == {"random": f"+2.0 ± {half:.1f}", "union": "baseline"}
    runs = column(run_table(comparison), "over union")
    assert runs["random-s2"] == "+3.0"
    assert runs["union-s0"] == "baseline"


def test_a_baseline_is_a_run_a_recipe_or_a_row(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    runs = column(run_table(comparison_of(tmp_path, "union-s1")), "over union-s1")
    assert runs["random-s0"] == "-2.0"
    assert runs["union-s0"] == "-3.0"
    pixels = column(run_table(comparison_of(tmp_path, "raw pixels")), "over raw pixels")
    assert pixels["union-s0"] == "+12.0"
    twin = column(run_table(comparison_of(tmp_path)), "over random twin")
    assert twin["union-s0"] == "+10.0"
    with pytest.raises(UserError, match=r"unknown baseline 'unon'; known: .*union.* Did you mean 'union'\?"):
        comparison_of(tmp_path, "unon")


OTHER_DATA: Any = {"data_hash": "b" * 16, "train_hash": "c" * 16, "data": "other images"}


@pytest.mark.parametrize(
    "difference",
    [
        {"split": "val"},
        {"held_out_images": 5000},
        {"train_images": 20},
        {"classes": 100},
        {"role": "context"},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_scores_of_other_conditions_are_not_subtracted(tmp_path: Path, difference: dict[str, Any]) -> None:
    make_study_run(tmp_path / "a", knn=0.4, table={"role": "target"}, steps=5)
    changed = {"role": "target", **difference}
    make_study_run(tmp_path / "b", "optimizer.lr=1e-4", knn=0.5, table=changed, steps=5)
    comparison = comparison_of(tmp_path, "a")
    assert len(comparison.measures) == 4, "kNN and linear, each of two kinds"
    table = run_table(comparison)
    assert next(row.cells for row in table.rows if row.name == "b")[1].text in ("–", "baseline")
    gains = [cell.text for row in table.rows for cell in row.cells]
    assert "+10.0" not in gains
    page = text(write_report([tmp_path], tmp_path / "page.html", comparison_only=True, baseline="a"))
    assert "Scores of different splits, data sets or probe settings are not compared" in page
    assert "+10.0" not in page


def test_scores_of_other_data_sets_are_not_subtracted(tmp_path: Path) -> None:
    """By the hash of the samples where the tables have it, else by the recipes' data."""
    make_study_run(tmp_path / "a", steps=5)
    make_study_run(tmp_path / "b", "data.name=npz", f"data.path={tmp_path / 'x.npz'}", knn=0.5, steps=5)
    assert len(comparison_of(tmp_path).measures) == 4
    same: Any = {"data_hash": "a" * 16, "train_hash": "a" * 16}
    make_study_run(tmp_path / "a", table=same, steps=5)
    make_study_run(tmp_path / "b", "data.name=npz", "data.path=/x.npz", knn=0.5, table=same, steps=5)
    assert len(comparison_of(tmp_path).measures) == 2, "the same samples from another place"
    make_study_run(tmp_path / "b", knn=0.5, table=OTHER_DATA, steps=5)
    comparison = comparison_of(tmp_path)
    assert len(comparison.measures) == 4
    assert {m.label for m in comparison.measures if m.probe == "knn"} >= {"kNN (other images (bbbbbbbb))"}


def test_probes_with_other_settings_are_not_compared_and_the_other_probe_is(tmp_path: Path) -> None:
    make_study_run(tmp_path / "a", steps=5)
    make_study_run(tmp_path / "b", "probes.knn.k=3", "optimizer.lr=1e-4", steps=5)
    labels = [(m.probe, len(m.tables)) for m in comparison_of(tmp_path).measures]
    assert labels == [("linear", 2), ("knn", 1), ("knn", 1)]


def test_a_seed_evaluated_at_an_earlier_step_is_left_out_of_the_mean(tmp_path: Path) -> None:
    make_study_run(tmp_path / "a-s0", knn=0.40, steps=8)
    make_study_run(tmp_path / "a-s1", knn=0.42, seed=1, steps=8, table={"step": 8})
    make_study_run(tmp_path / "a-s2", knn=0.10, seed=2, steps=8, table={"step": 4})
    make_study_run(tmp_path / "b", "optimizer.lr=1e-4", steps=8)
    comparison = comparison_of(tmp_path)
    assert column(configuration_table(comparison), "kNN, %")["a"].startswith("41.0 ")
    page = text(write_report([tmp_path], tmp_path / "page.html", comparison_only=True))
    assert "Left out of the mean of a, as they were evaluated at an earlier step: a-s2." in page
    assert "a-s2 was evaluated at step 4; it has reached step 8." in page


def test_a_score_that_is_not_finite_is_said_with_its_reason(tmp_path: Path) -> None:
    make_study_run(tmp_path / "good", knn=0.4, steps=5)
    diverged = make_study_run(tmp_path / "diverged", "optimizer.lr=1", steps=5)
    content = json.loads((diverged / "eval.json").read_text())
    content["rows"][0]["scores"]["knn"] = {"top1": None, "top1_se": None}
    (diverged / "eval.json").write_text(json.dumps(content))
    page = write_report([tmp_path], comparison_only=True)
    assert "not computed" in text(page)
    assert "the score was not finite, as it is where an encoder has diverged" in page.read_text()
    assert "nan" not in text(page)
    alone = text(write_report([diverged], probes=False, images=4))
    assert "kNN not computed on 10,000 test images" in alone
    assert "nan" not in alone


def test_the_best_come_first_and_are_marked(tmp_path: Path) -> None:
    for number in range(4):
        knn = (0.3, 0.5, 0.4, 0.45)[number]
        make_study_run(tmp_path / f"r{number}", f"optimizer.lr={number + 1}e-4", knn=knn, steps=5)
    table = run_table(comparison_of(tmp_path))
    assert [row.name for row in table.rows] == ["r1", "r3", "r2", "r0"]
    assert [row.cells[0].best for row in table.rows] == [True, False, False, False]
    page = write_report([tmp_path]).read_text(encoding="utf-8")
    assert page.count('class="number best"') == 4, "two scores and their differences"
    assert page.index('class="compared"') < page.index('<p class="lead">'), "the table before any prose"
    assert page.index('class="dot-plot"') < page.index('<p class="how">')


def test_equal_scores_have_no_best(tmp_path: Path) -> None:
    make_study_run(tmp_path / "a", steps=5)
    make_study_run(tmp_path / "b", "optimizer.lr=1e-4", steps=5)
    assert not any(cell.best for row in run_table(comparison_of(tmp_path)).rows for cell in row.cells)


def test_the_band_reaches_over_the_seeds() -> None:
    x = np.arange(5.0)
    joint = mean_of([(x, x), (x[::2], 2 * x[::2]), (np.arange(1.0, 9), np.full(8, 3.0))])
    assert joint is not None
    steps, mean, low, high = joint
    assert steps.tolist() == [2, 4], "where all have values, at the points of the shortest"
    assert mean.tolist() == [3, 5]
    assert low.tolist() == [2, 3]
    assert high.tolist() == [4, 8]
    assert mean_of([(x, x), (x + 10, x)]) is None


@pytest.mark.long
def test_fourteen_runs_are_one_small_page_in_seconds(jepa: Callable[..., Said], tmp_path: Path) -> None:
    """Each of a recipe of its own, which is the largest page: fourteen lines a panel."""
    for number in range(14):
        path = tmp_path / f"runs/a-run-with-quite-a-long-name-{number:02}"
        make_study_run(path, f"predictor.depth={1 + number}", knn=0.3 + 0.01 * number, steps=1000)
    before = time.process_time()
    answer = jepa("report", tmp_path / "runs")
    assert answer.code == 0
    assert time.process_time() - before < 40, "16 s on an idle core, 24 on a loaded one"
    page = tmp_path / "runs/report.html"
    assert page.stat().st_size < 2_000_000
    assert headings(page) == ["What came of it", "What was different", "How they went"]
    assert [path.name for path in (tmp_path / "runs/report").iterdir()] == ["curves.png"]
    legend = page.read_text(encoding="utf-8").partition('<div class="legend">')[2].partition("</div>")[0]
    styles = re.findall(r"stroke:var\(--run(\d)\).*?/>", legend)
    assert len(styles) == 14
    lines = re.findall(r"<path .*?/>", legend)
    assert len(set(lines)) == 14, "each by colour or dashes, from the ninth on too"


def test_sections_of_single_runs_are_left_out_or_asked_for(tmp_path: Path) -> None:
    make_study(tmp_path / "runs", count=2, steps=3)
    only = write_report([tmp_path / "runs"], tmp_path / "a.html", comparison_only=True)
    assert "of-run" not in only.read_text().partition("</style>")[2]
    each = write_report([tmp_path / "runs"], tmp_path / "b.html")
    assert each.read_text().partition("</style>")[2].count('class="of-run"') == 2


def test_a_run_of_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    make_study(tmp_path / "runs", count=3, steps=3)
    (tmp_path / "runs/bad").mkdir()
    (tmp_path / "runs/bad/recipe.toml").write_text("masker = 3")
    page = text(write_report([tmp_path / "runs"], comparison_only=True))
    assert "3 runs compared" in page
    assert "bad is left out: " in page
    with pytest.raises(UserError):
        write_report([tmp_path / "runs/bad", tmp_path / "runs/union-s0"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--baseline", "nobody"], "unknown baseline 'nobody'; known: "),
        (["--baseline", "random twin", "--images", "0"], "setting '--images' is 0"),
    ],
)
def test_mistakes_are_found_before_any_work(
    jepa: Callable[..., Said], tmp_path: Path, words: list[str], said: str
) -> None:
    make_study(tmp_path / "runs", count=3, steps=3)
    answer = jepa("report", tmp_path / "runs", *words)
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith(f"error: {said}")
    assert not (tmp_path / "runs/report.html").exists()


def test_a_baseline_needs_several_runs(jepa: Callable[..., Said], tmp_path: Path) -> None:
    run = make_study_run(tmp_path / "a", steps=3)
    answer = jepa("report", run, "--baseline", "random twin")
    assert answer.code == 2
    assert (
        "setting '--baseline' is 'random twin': what several runs are compared with; got one run"
        in answer.err
    )


def test_a_folder_without_runs_is_an_error(jepa: Callable[..., Said], tmp_path: Path) -> None:
    answer = jepa("report", tmp_path)
    assert answer.code == 2
    assert "is not a run: it holds no recipe.toml, and there are no runs in it" in answer.err


def test_a_run_named_beside_its_folder_is_taken_once(tmp_path: Path) -> None:
    runs = make_study(tmp_path / "runs", count=3, steps=3)
    assert len(read_runs([runs[0], tmp_path / "runs"])[0]) == 3
    assert len(read_runs([tmp_path / "runs", runs[0]])[0]) == 3
    with pytest.raises(UserError, match=f"the same run is named twice: {runs[0]}, {runs[0]}$"):
        read_runs([runs[0], runs[1], runs[0]])


def keep_guesses(run: Path, right: range) -> None:
    """Guesses of kNN on ten images of class 1, right on those in `right`."""
    names = [f"image{i}" for i in range(10)]
    guesses = torch.tensor([int(i in right) for i in range(10)])
    part = Predictions(names, torch.ones(10, dtype=torch.int64), {("trained", "knn"): guesses})
    save_predictions(run / "predictions.npz", [part])


def test_the_best_two_runs_are_compared_image_by_image(tmp_path: Path) -> None:
    better = make_study_run(tmp_path / "better", knn=0.8, steps=3)
    worse = make_study_run(tmp_path / "worse", "optimizer.lr=1e-4", knn=0.3, steps=3)
    assert "Image by image" not in text(write_report([tmp_path], comparison_only=True))
    keep_guesses(better, range(8))
    keep_guesses(worse, range(7, 10))
    assert (
        "Image by image, kNN: of 10 samples both are right on 1, better alone on 7, worse alone on 2, "
        "neither on 0; exact McNemar p = 0.18." in text(write_report([tmp_path], comparison_only=True))
    )
    (worse / "predictions.npz").write_bytes(b"damaged")
    assert "Image by image" not in text(write_report([tmp_path], comparison_only=True))
