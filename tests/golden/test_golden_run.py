"""A run that an earlier version of the program wrote goes on and is judged as it was then.

`run/` was trained to step 3 of 6 by the version before core moved into packages (commit 2310a1b), with
encoder and data small enough to lie here; `run_expected.json` holds what that version then made of it:
every loss to the last step, and the label-free scores of its encoder. fp32 on one thread; machines add up in
other orders, so the last digits are free.
"""

import json
import shutil
from pathlib import Path

import pytest

from jepa_core import load_recipe, train
from jepa_core.evaluate.run import evaluate_run
from jepa_core.runs import checkpoints
from jepa_core.runs.folder import read_run_recipe

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "run_expected.json").read_text())


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "run"
    shutil.copytree(HERE / "run", folder)
    train(load_recipe(folder / "recipe.toml", f"data.path={folder / 'images.npz'}"), folder, resume=True)
    return folder


def test_every_loss_is_that_of_the_version_that_began_the_run(resumed: Path) -> None:
    lines = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert {str(line["step"]): line["loss"] for line in lines} == pytest.approx(EXPECTED["loss"], rel=1e-4)


def test_its_encoder_has_the_same_scores(resumed: Path) -> None:
    rows = evaluate_run(resumed, [], "test").rows
    assert [row.name for row in rows] == [row["name"] for row in EXPECTED["rows"]]
    for row, expected in zip(rows, EXPECTED["rows"], strict=True):
        assert row.rankme == pytest.approx(expected["rankme"], rel=1e-4)
        assert row.feature_std == pytest.approx(expected["std"], rel=1e-4)


def test_the_recipe_reads_as_it_was_written() -> None:
    """Settings that are added later take their defaults; none of those written is lost or refused."""
    recipe = read_run_recipe(HERE / "run")
    assert recipe.name == "before the sweep"
    again = read_run_recipe(HERE / "run", "name=again")
    assert again.encoder == recipe.encoder


def test_the_checkpoint_has_the_names_of_a_model_built_today() -> None:
    from jepa_core import build_model

    found, damages = checkpoints.newest_good(HERE / "run")
    assert found is not None
    assert damages == []
    checkpoints.load_weights(found, build_model(read_run_recipe(HERE / "run")))
