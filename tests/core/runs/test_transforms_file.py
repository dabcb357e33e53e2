"""Runs whose samples have several named values: trained, resumed, refused with another vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_core import Recipe, UserError, hookimpl, load_recipe, plugins, train
from jepa_core.runs import checkpoints
from jepa_core.runs.load import open_model
from jepa_core.runs.metrics_file import METRICS, read_metrics
from jepa_core.runs.transforms_file import TRANSFORMS
from tests.core.data.named_worlds import PairsSource

SETTINGS = ("data.name=pairs", "predictor.condition=ignore", "probes.knn=false", "probes.linear=false")


class Offers:
    """A plugin with the source of pairs."""

    @hookimpl
    def jepa_data(self) -> dict[str, type]:
        return {"pairs": PairsSource}


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    registry = plugins.registry()
    registry.register(Offers(), "pairs")
    yield
    registry.manager.unregister(name="pairs")
    registry._catalogues.clear()


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(tiny_recipe, *SETTINGS, "train.checkpoint_every=2")


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / METRICS)]


def stopped_at(recipe: Recipe, folder: Path, step: int) -> Path:
    """A run whose newest checkpoint is of this step."""
    train(recipe, folder, watch=None)
    for number in (4, 6):
        if number > step:
            checkpoint = folder / "checkpoints" / checkpoints.newest_good(folder)[0].name  # type: ignore[union-attr]
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    return folder


def test_a_run_keeps_its_vocabulary_and_goes_on_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    folder = stopped_at(recipe, tmp_path / "run", 4)
    whole = losses(folder)
    vocabulary = (folder / TRANSFORMS).read_text(encoding="utf-8")
    assert list(json.loads(vocabulary)["learned"]) == ["views.caption"]
    train(recipe, folder, resume=True)
    assert losses(folder) == whole
    assert (folder / TRANSFORMS).read_text(encoding="utf-8") == vocabulary


def test_a_lost_vocabulary_is_fitted_again_where_that_gives_the_same(recipe: Recipe, tmp_path: Path) -> None:
    folder = stopped_at(recipe, tmp_path / "run", 4)
    (folder / TRANSFORMS).unlink()
    assert train(recipe, folder, resume=True).step == 6


def test_another_vocabulary_than_the_run_s_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    folder = stopped_at(recipe, tmp_path / "run", 4)
    state = json.loads((folder / TRANSFORMS).read_text(encoding="utf-8"))
    vocabulary = state["learned"]["views.caption"]["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / TRANSFORMS).write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"what the transforms of views.caption have learned .* is not the run's"
    ):
        train(recipe, folder, resume=True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "transforms.json' is damaged"),
        ("[]", "transforms.json' is damaged"),
        ("{}", "transforms.json' is damaged (it has no entry 'fields')"),
        ('{"fields": {}, "learned": []}', "its entry 'learned' is no table"),
        (
            '{"fields": {}, "learned": {}}',
            "is not of this recipe's transforms: it says nothing of views.caption",
        ),
        (
            '{"fields": {}, "learned": {"views.caption": {}}}',
            "is not of this recipe's transforms: views.caption: it is no tokenizer",
        ),
    ],
)
def test_a_damaged_file_is_one_line(recipe: Recipe, tmp_path: Path, content: str, what: str) -> None:
    folder = stopped_at(recipe, tmp_path / "run", 4)
    (folder / TRANSFORMS).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        train(recipe, folder, resume=True)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_a_view_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    folder = stopped_at(recipe, tmp_path / "run", 4)
    (folder / TRANSFORMS).write_text('{"fields": {}, "learned": {}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"transforms.json' is damaged \(its entry 'fields' has no view\)"):
        open_model(folder)


def test_values_in_memory_learn_the_same(recipe: Recipe, tiny_recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "one")
    in_memory = load_recipe(tiny_recipe, *SETTINGS, "data.in_memory=true")
    train(in_memory, tmp_path / "other")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "other"), rel=1e-4)


def test_what_differs_in_length_is_not_recorded(recipe: Recipe, tiny_recipe: Path, tmp_path: Path) -> None:
    recorded = load_recipe(tiny_recipe, "data.name=pairs", "train.cuda_graph=true")
    with pytest.raises(UserError) as error:
        train(recorded, tmp_path / "run")
    assert "\n" not in str(error.value)
