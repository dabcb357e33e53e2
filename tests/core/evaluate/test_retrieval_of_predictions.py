"""Prediction retrieval on held-out images without labels: in the table, its caption, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import build_model, load_recipe
from jepa_core.evaluate.evaluations import EVAL
from jepa_core.evaluate.retrieval_of_predictions import GROUP, retrieval_scores
from jepa_core.evaluate.run import evaluate_run
from jepa_core.evaluate.table import EvalResult
from tests.made_runs import images, make_run


def test_it_is_a_share_with_its_chance_and_the_same_at_every_call(tiny_recipe: Path) -> None:
    model = build_model(load_recipe(tiny_recipe)).train()
    views = images(16, 16, batch=2 * GROUP + 3)
    scores = retrieval_scores(model, views, "cpu")
    assert scores["chance"] == 1 / GROUP
    assert 0 <= scores["retrieval"] <= 1
    assert retrieval_scores(model, views, "cpu") == scores
    assert model.training
    assert retrieval_scores(model, views[:5], "cpu")["chance"] == 1 / 5


def test_a_perfect_prediction_is_always_nearest_and_a_blind_one_is_at_chance(tiny_recipe: Path) -> None:
    model = build_model(load_recipe(tiny_recipe))
    views, true = images(16, 16, batch=8), []
    make_targets, predict = model.make_targets, model.predict

    def remember(tokens, plan):
        true[:] = make_targets(tokens, plan)
        return tuple(true)

    model.make_targets, model.predict = remember, lambda *_: tuple(true)  # type: ignore[method-assign]
    assert retrieval_scores(model, views, "cpu")["retrieval"] == 1
    same = views[:1].expand(8, -1, -1, -1)
    assert retrieval_scores(model, same, "cpu")["retrieval"] == pytest.approx(1 / 8)
    model.predict = predict  # type: ignore[method-assign]


def test_a_model_without_masks_has_none(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "masker=none", "predictor=none", "target_update=none")
    assert retrieval_scores(build_model(recipe), images(16, 16), "cpu") == {}


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A folder of images of two sizes in nested folders, beside loose ones."""
    random = np.random.default_rng(0)
    for number in range(30):
        folder = tmp_path / "photos" / ("a/b" if number % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + number, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{'jpg' if number % 3 else 'png'}")
    return tmp_path / "photos"


def test_the_table_of_images_without_labels_has_it(
    tmp_path: Path, tiny_recipe: Path, unlabelled: Path
) -> None:
    make_run(tmp_path / "run", tiny_recipe, "data.name=folder", f"data.path={unlabelled}")
    table = evaluate_run(tmp_path / "run", [], cache=False)
    assert table.cells()[0] == ["features", "width", "RankMe", "std", "retrieval"]
    assert table.row("raw pixels").predictions == {}
    assert table.cells()[-1][-1] == ""
    assert table.rows[0].predictions["chance"] == 1 / 3
    assert "nearest to the target of their own among 3 images (chance 33.3%)" in table.caption()
    read = EvalResult.model_validate_json((tmp_path / "run" / EVAL).read_text())
    assert read.rows[0].predictions == table.rows[0].predictions


def test_a_table_with_labels_has_it_not(tmp_path: Path, tiny_recipe: Path) -> None:
    make_run(tmp_path / "run", tiny_recipe)
    table = evaluate_run(tmp_path / "run", [], cache=False)
    assert table.prediction_scores == ()
    assert table.rows[0].predictions == {}


def test_a_twin_from_the_cache_has_its_score(tmp_path, tiny_recipe, unlabelled, monkeypatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    make_run(tmp_path / "run", tiny_recipe, "data.name=folder", f"data.path={unlabelled}")
    first, second = (evaluate_run(tmp_path / "run", []) for _ in range(2))
    assert second.row("random twin") == first.row("random twin")
    assert torch.tensor(second.row("random twin").predictions["retrieval"]).isfinite()
