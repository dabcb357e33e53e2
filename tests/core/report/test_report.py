"""The page of whole runs, tiny ones: what it says, what it does without, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import UserError, load_recipe, train
from jepa_core.observers.standard import CollapseAlarm, Journal, MetricsWriter
from jepa_core.report import write_report
from jepa_core.report.page import render
from jepa_core.report.write import gather
from jepa_core.runs.events_file import record
from tests.conftest import Said

PICTURES = ["curves", "map", "masks", "neighbours", "pca", "similarity"]


def run(recipe: Path, folder: Path, *overrides: str) -> Path:
    watch = [MetricsWriter(), Journal(), CollapseAlarm()]
    train(load_recipe(recipe, "data.test_share=0.3", *overrides), folder, watch=watch)
    return folder


@pytest.fixture(scope="module")
def done(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report."""
    folder = run(tiny_recipe, tmp_path_factory.mktemp("runs") / "done")
    write_report([folder])
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The run without its report, to be spoilt."""
    shutil.copytree(done, tmp_path / "copy", ignore=shutil.ignore_patterns("report*"))
    return tmp_path / "copy"


def page_of(folder: Path, role: str = "target", **options: Any) -> str:
    """The page alone, without the pictures beside it."""
    return render(gather([folder], role=role, **options), role)


def text(page: str | Path) -> str:
    """What a reader reads: the page without style, tags and the like, on one line."""
    whole = page if isinstance(page, str) else page.read_text(encoding="utf-8")
    source = re.sub(r"<(style|svg).*?</\1>", " ", whole, flags=re.S)
    plain = re.sub(r"<[^>]*>", " ", source)
    for entity, letter in (("&#39;", "'"), ("&#34;", '"'), ("&amp;", "&"), ("&gt;", ">"), ("&lt;", "<")):
        plain = plain.replace(entity, letter)
    return " ".join(plain.split())


def headings(page: str | Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page if isinstance(page, str) else page.read_text(encoding="utf-8"))


ALL = [
    "What the features know",
    "How it went",
    "What is visible and what is to be predicted",
    "What the patches look like to the encoder",
    "Which patches are alike",
    "Nearest neighbours",
    "A map of the features",
    "What happened",
    "The recipe",
]


def test_the_page_has_every_part_and_its_pictures_lie_beside_it(done: Path) -> None:
    assert headings(done / "report.html") == ALL
    assert sorted(path.stem for path in (done / "report").iterdir()) == PICTURES
    for path in (done / "report").iterdir():
        least = 2 if path.stem == "map" else 5  # a map of 19 images is mostly paper
        assert np.asarray(Image.open(path).convert("L")).std() > least, f"{path.name} is blank"


def test_the_page_begins_with_the_result(done: Path) -> None:
    table = json.loads((done / "eval.json").read_text())
    score = table["rows"][0]["scores"]["knn"]["top1"]
    said = text(done / "report.html")
    gain = 100 * (score - table["rows"][1]["scores"]["knn"]["top1"])
    lead = f"kNN {100 * score:.1f} % on 19 test images, {gain:+z.1f} over the random twin; linear "
    assert lead in said
    assert re.search(r"; 6 steps in \d+ s; no alarms\.", said)
    assert said.index(lead) < said.index("State")


def test_the_page_says_what_was_run_and_where(done: Path) -> None:
    said = text(done / "report.html")
    for part in (
        "State finished",
        "Training 6 steps of 8 images, 1.23 passes over 39 images",
        "ran on cpu in fp32",
        f"torch {torch.__version__.partition('+')[0]}",
        "core-hours",
        "FLOP an image",
        "Features of the target encoder after its final norm, at step 6; images of the test split",
        "Checkpoint of step 6.",
        "No installed recipe is called tiny",
    ):
        assert part in said, part


def test_the_same_run_gives_the_same_page(done: Path, tmp_path: Path) -> None:
    again = write_report([done], tmp_path / "again.html")
    assert again.read_bytes() == (done / "report.html").read_bytes()
    for path in (done / "report").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_run_that_was_killed_says_where_it_stood(copy: Path) -> None:
    for name, keep in (("events.jsonl", 1), ("metrics.jsonl", 3)):
        lines = (copy / name).read_text().splitlines(keepends=True)
        (copy / name).write_text("".join(lines[:keep]) + '{"step": 4, "lo')
    said = text(page_of(copy, probes=False))
    assert "3 of 6 steps" in said
    assert "State running, or stopped without a word" in said
    assert "(the whole time was not recorded)" in said


def test_one_logged_step_is_a_dot(copy: Path) -> None:
    first = (copy / "metrics.jsonl").read_text().splitlines()[0]
    (copy / "metrics.jsonl").write_text(first + "\n")
    page = page_of(copy, probes=False)
    assert "How it went" in headings(page)
    assert "<circle" in page.partition("<b>loss</b>")[2].partition("</figure>")[0]


def test_an_imported_checkpoint_has_no_log_and_a_page(copy: Path) -> None:
    for name in ("metrics.jsonl", "events.jsonl"):
        (copy / name).unlink()
    page = page_of(copy)
    assert headings(page) == [part for part in ALL if part not in ("How it went", "What happened")]
    assert "imported weights, not trained here." in text(page)
    assert "State not trained here" in text(page)


def test_a_run_without_a_checkpoint_still_has_curves(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    page = page_of(copy)
    assert headings(page) == ["What the features know", "How it went", "What happened", "The recipe"]
    assert "There are no pictures of features: run" in text(page)


def test_lost_data_are_named(copy: Path, tmp_path: Path) -> None:
    recipe = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(re.sub(r'path = "[^"]*"', 'path = "/gone/away.npz"', recipe))
    (copy / "eval.json").unlink()
    shutil.rmtree(copy / "evaluations")
    page = page_of(copy)
    assert headings(page) == ["How it went", "What happened", "The recipe"]
    assert "/gone/away.npz" in text(page).partition("State")[0]


def test_events_and_alarms_are_told(copy: Path) -> None:
    record(copy, "alarm", 4, text="step 4: the features <may> be collapsing")
    record(copy, "checkpoint_damaged", 5, what="step-4: model.safetensors has another hash")
    for step in range(20):
        record(copy, "step_skipped", step, why="the loss is nan")
    said = text(page_of(copy, probes=False))
    assert "1 alarm." in said.partition("State")[0]
    assert "Alarm. step 4: the features <may> be collapsing" in said
    assert "checkpoint damaged step-4: model.safetensors has another hash" in said
    assert said.count("the loss is nan") == 12
    assert "8 more of the kind step_skipped" in said


def test_a_probe_table_of_other_weights_is_said(copy: Path) -> None:
    table = json.loads((copy / "eval.json").read_text())
    (copy / "eval.json").write_text(json.dumps({**table, "step": 2}))
    said = text(page_of(copy, role="context"))
    assert "The probe table was made at step 2; the newest checkpoint is of step 6" in said
    assert "The pictures are of the context encoder; the probe table is not" in said
    assert "Features of the context encoder" in said


def test_images_without_labels(tiny_recipe: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    page = page_of(run(tiny_recipe, tmp_path / "run", f"data.path={tmp_path / 'bare.npz'}"))
    before = ALL.index("A map of the features")
    assert headings(page) == [*ALL[:before], "Clusters", *ALL[before:]]
    assert "RankMe" in text(page)
    assert "✓" not in text(page).partition("marks the same class")[2]
    assert text(page).startswith("run · jepa report run tiny 6 steps in")


def test_a_method_without_masks(tiny_recipe: Path, tmp_path: Path) -> None:
    folder = run(tiny_recipe, tmp_path / "run", "masker.name=none", "predictor.name=none")
    page = page_of(folder, probes=False)
    assert "What is visible and what is to be predicted" not in headings(page)
    assert "this method hides nothing" in text(page)


def test_too_few_images_for_a_map(tiny_recipe: Path, tmp_path: Path) -> None:
    page = page_of(run(tiny_recipe, tmp_path / "run"), images=5, probes=False)
    assert "A map of the features" not in headings(page)
    assert "A map needs 12 images; the test split has 5." in text(page)


def test_runs_are_compared(done: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    other = run(tiny_recipe, tmp_path / "other", "masker.name=random", "train.steps=4", "train.log_every=2")
    page = write_report([done, other], tmp_path / "both.html")
    said = text(page)
    assert headings(page) == ["What came of it", "What was different", "How they went", "done", "other"]
    assert "2 runs compared" in said
    differences = said.partition("settings differ")[2].partition("How they went")[0]
    assert "masker.name" in differences
    assert "masker.name multiblock random masker.targets 4 –" in differences
    assert "train.log_every" not in differences, "it says nothing about what is learned"
    for folder in (done, other):
        loss = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        assert f" {loss:.4f} " in said
    assert page.read_text().count('<details class="of-run"') == 2
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["curves.png", "done", "other"]


def test_the_command(jepa: Callable[..., Said], copy: Path, tmp_path: Path) -> None:
    said = jepa("report", copy, "--out", tmp_path / "page.html", "--images", "4", "--no-probes")
    assert said.code == 0
    assert said.out.strip() == (
        f"the report is {tmp_path / 'page.html'}, its pictures are in {tmp_path / 'page'}"
    )
    assert (tmp_path / "page" / "pca.png").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--role", "both"], "unknown role 'both'; known: context, target."),
        (["--images", "0"], "setting '--images' is 0; expected a whole number from 1"),
        (
            ["--out", "{run}/eval.json/p.html"],
            "the report '{run}/eval.json/p.html' cannot be written: Not a dir",
        ),
        (["--out", "{run}"], "setting '--out' is '{run}'; expected the name of a file that ends with .html"),
        (["{run}"], "the same run is named twice: {run}, {run}"),
        (["{run}/checkpoints"], "'{run}/checkpoints' is not a run: it holds no recipe.toml"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    jepa: Callable[..., Said], copy: Path, words: list[str], said: str
) -> None:
    answer = jepa("report", copy, "--no-probes", *(word.format(run=copy) for word in words))
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith(f"error: {said.format(run=copy)}")


def test_a_page_never_names_a_host(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|@import", page)
    links = re.findall(r'(?:src|href|url)(?:="|\()([#\w]*)', page)
    assert {link if link[0] != "#" else "#" for link in links} == {"data", "#"}


def test_errors_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        write_report([tmp_path])
