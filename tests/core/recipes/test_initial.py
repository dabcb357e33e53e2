"""[init.PART] in recipes: read, merged, written; and every mistake in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from jepa_core import UserError, load_recipe
from jepa_core.recipes.annotate import Head, to_commented_toml
from jepa_core.recipes.resolve import merge, resolve


def test_a_part_is_named_by_its_path_and_stands_again_in_the_written_recipe(tiny_recipe: Path) -> None:
    overrides = ("init.encoder.from=timm:x", "init.encoder.frozen=true", "init.encoders.text.file=a.pt")
    recipe = load_recipe(tiny_recipe, *overrides)
    assert list(recipe.init) == ["encoder", "encoders.text"]
    assert (recipe.init["encoder"].source, recipe.init["encoder"].frozen) == ("timm:x", True)
    assert resolve(tomllib.loads(recipe.to_toml())).init == recipe.init
    assert 'from = "timm:x"' in recipe.to_toml()


def test_a_part_inside_a_part_has_a_table_of_its_own(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "init.encoder.run=a", "init.encoder.blocks.run=b")
    assert {part: settings.run for part, settings in recipe.init.items()} == {
        "encoder": "a",
        "encoder.blocks": "b",
    }


def test_a_recipe_without_weights_of_elsewhere_is_written_as_before(tiny_recipe: Path) -> None:
    assert "init" not in load_recipe(tiny_recipe).to_table()


def test_an_explained_recipe_says_what_is_loaded(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "init.encoder.run=runs/x", "init.encoder.frozen=true")
    text = to_commented_toml(recipe, Head())
    assert "# Weights that it starts with: run runs/x, target encoder, frozen.\n[init.encoder]" in text
    assert "# from =  (not set)" in text
    assert resolve(tomllib.loads(text)).init == recipe.init


def test_another_origin_replaces_the_old_one_and_false_takes_a_part_out() -> None:
    base = {"init": {"encoder": {"run": "a", "frozen": True}, "predictor": {"run": "a"}}}
    assert merge(base, {"init": {"encoder": {"file": "b"}}})["init"]["encoder"] == {
        "frozen": True,
        "file": "b",
    }
    assert merge(base, {"init": {"encoder": {"frozen": False}}})["init"]["encoder"]["frozen"] is False
    assert merge(base, {"init": {"encoder": False}})["init"] == {"predictor": {"run": "a"}}


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("encoder.run=a", "encoder.file=b"),
         "section 'init.encoder' has run and file; expected one of run, file, from"),
        (("encoder.frozen=true",),
         "section 'init.encoder' names no weights; expected one of run, file, from"),
        (("encoder.rnu=a",),
         "unknown setting 'init.encoder.rnu'; known: file, format, from, frozen, role, run, strict. "
         "Did you mean 'run'?"),
        (("encoder.from=3",), "setting 'init.encoder.from' is 3; expected text"),
        (("encoder.run=a", "encoder.role=both"), "setting 'init.encoder.role' is 'both'; expected target or "
         "context"),
        (("encoder=runs/a",), "setting 'init.encoder' is 'runs/a'; expected a table with run, file, from"),
        (("encoder=false",), "unknown entry of [init] 'encoder'; known: none."),
        (("model.run=a", "model.frozen=true"),
         "init.model.frozen leaves nothing to train; freeze a part, such as init.encoder"),
        (("encoder.run=a", "encoder.format=timm"), "setting 'init.encoder.format' is of a file; init.encoder "
         "takes a run"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_line(tiny_recipe: Path, overrides: tuple[str, ...], text: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(tiny_recipe, *(f"init.{override}" for override in overrides))
    assert str(error.value) == text


def test_a_budget_of_hours_takes_the_place_of_steps_and_not_of_epochs(tiny_recipe: Path) -> None:
    train = load_recipe(tiny_recipe, "train.hours=2", "train.epochs=9").train
    assert (train.hours, train.steps, train.epochs) == (2, None, 9)
    assert load_recipe(tiny_recipe, "train.hours=2", "train.steps=3").train.steps == 3
