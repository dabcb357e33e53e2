"""fields.json: written with a run, read when it is opened, compared when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_core import Field, UserError, load_recipe, train
from jepa_core.runs.fields_file import FIELDS, check_same_fields, read_fields, write_fields
from jepa_core.runs.load import open_model
from tests.made_pairs import pairs_installed, write_recipe
from tests.made_runs import make_run


@pytest.fixture
def _installed() -> Iterator[None]:
    with pairs_installed():
        yield


def test_a_folder_of_older_runs_has_none_and_opens(tmp_path: Path, tiny_recipe: Path) -> None:
    make_run(tmp_path / "run", tiny_recipe)
    assert read_fields(tmp_path / "run") is None
    _, model, _ = open_model(tmp_path / "run")
    assert model.fields == {"views.image": Field("image", (3, 16, 16))}


@pytest.mark.parametrize("text", ["[", "[]", '{"views.x": {"kind": "smell"}}', "[" * 100_000])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FIELDS).write_text(text)
    with pytest.raises(UserError, match=r"fields\.json does not hold a run's fields: .") as error:
        read_fields(tmp_path)
    assert "\n" not in str(error.value)


def test_a_source_that_has_become_another_is_named(tmp_path: Path) -> None:
    before = {"views.image": Field("image", (3, 16, 16)), "views.text": Field("ids", (None,), vocabulary=300)}
    check_same_fields(before, {**before, "views.image": Field("image")})
    now = {**before, "views.text": Field("ids", (None,), vocabulary=400)}
    with pytest.raises(UserError, match=r"the source's views\.text is .*400.*, and .*300.* when the run"):
        check_same_fields(before, now)
    with pytest.raises(UserError, match=r"the source's views\.text is nothing, and "):
        check_same_fields(before, {})
    write_fields(tmp_path, before)
    assert read_fields(tmp_path) == before


@pytest.mark.usefixtures("_installed")
def test_a_resumed_run_asks_its_source_again(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), "train.steps=2", "train.checkpoint_every=1")
    train(recipe, tmp_path / "run", watch=[])
    table = json.loads((tmp_path / "run" / FIELDS).read_text())
    table["views.pose"]["shape"] = [7]
    (tmp_path / "run" / FIELDS).write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"the source's views\.pose is .*6.*7.*--allow-change data"):
        train(recipe, tmp_path / "run", resume=True, watch=[])
