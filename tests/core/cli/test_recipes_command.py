"""`jepa recipes` and `show`: what each costs and gives; a resolved recipe, explained, is a recipe again."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from jepa_core import load_recipe
from jepa_core.recipes.annotate import Head, read_head, to_commented_toml
from jepa_core.recipes.files import names
from jepa_core.settings.describe import settings_of

SHIPPED = {name: path for name, path in names().items() if name.startswith("ijepa/")}


def test_recipes_are_listed_with_cost_and_expected_result(jepa) -> None:
    listed = json.loads(jepa("recipes", "--json").out)
    assert set(listed) >= set(SHIPPED)
    assert listed["ijepa/in1k_vith14"]["what"].startswith("ViT-H/14 on ImageNet-1k")
    said = jepa("recipes").out
    assert "\nijepa/demo\n  I-JEPA on CIFAR-10 in minutes on a CPU\n  cost " in said
    assert all(f"\n{name}\n" in f"\n{said}" for name in listed)
    assert jepa("recipes", "list").out == said


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_recipe_says_what_it_costs_and_gives(name: str) -> None:
    head = read_head(SHIPPED[name])
    assert all((head.what, head.cost, head.expected, head.data))
    if "in1k" in name or "in22k" in name:
        assert "in the paper" in head.expected
        assert "not trained by us" in head.expected


def test_the_numbers_of_the_small_recipes_are_those_of_the_results() -> None:
    """docs/results.md holds means as `| mean ± sd | 48.1 ± 0.4 | | **+16.4 ± 0.2** | …`."""
    results = (Path(__file__).parents[3] / "docs/results.md").read_text(encoding="utf-8")
    for name in ("demo", "cifar10", "cifar10_patch8", "cifar10_plain"):
        table = results.partition(f"<!-- {name} -->")[2].partition(f"<!-- end {name} -->")[0]
        row = next(line for line in table.splitlines() if line.startswith("| mean"))
        cells = [cell.strip(" *+").split(" ± ")[0] for cell in row.split("|")[2:] if "±" in cell]
        knn, knn_gain, linear, linear_gain = cells
        said = read_head(SHIPPED[f"ijepa/{name}"]).expected
        assert said.startswith(f"kNN {knn} %, linear {linear} % top-1; {knn_gain} and {linear_gain} points")


def test_a_head_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        "# mine/a: what: it is\n# cost: much\n#   and more\n# hue: blue\n#\n# expected: too late\nseed = 1\n"
    )
    assert read_head(path) == Head(what="what: it is", cost="much and more")
    path.write_text("seed = 1\n# cost: not a head\n")
    assert read_head(path) == Head()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_explained_recipe_loads_as_itself(name: str, tmp_path: Path) -> None:
    recipe, path = load_recipe(name), tmp_path / "shown.toml"
    path.write_text(to_commented_toml(recipe, read_head(SHIPPED[name])), encoding="utf-8")
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("plain", [[], ["--plain"]])
def test_a_shown_recipe_is_a_recipe(jepa, tiny_recipe: Path, tmp_path: Path, plain: list[str]) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(jepa("recipes", "show", tiny_recipe, "train.steps=9", *plain).out, encoding="utf-8")
    assert load_recipe(path) == load_recipe(tiny_recipe, "train.steps=9")
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert bool(comments) is (plain == [])


def test_what_differs_from_its_default_says_so_and_what_a_setting_means_stands_above(jepa) -> None:
    said = jepa("recipes", "show", "ijepa/demo", "masker.name=random", "optimizer.betas=[0.8, 0.9]").out
    lines = said.splitlines()
    assert "betas = [0.8, 0.9]  # default: [0.9, 0.999]" in lines
    assert lines[lines.index("seed = 0") - 1].startswith("# Of initial weights")
    assert "eps = 1e-08" in lines, "what is as by default is not marked"
    where = lines.index("# clip_grad =  (not set)")
    assert lines[where - 1] == (
        "# Largest norm of the gradient; by default it is not clipped. (a number above 0)"
    )
    masker = lines.index("[masker]")
    assert lines[masker + 1] == 'name = "random"'
    assert lines[0] == "# ijepa/demo, resolved: I-JEPA on CIFAR-10 in minutes on a CPU"


def test_as_json_every_setting_has_value_default_and_meaning(jepa, tiny_recipe: Path) -> None:
    shown = json.loads(jepa("recipes", "show", tiny_recipe, "--json").out)
    recipe = load_recipe(tiny_recipe)
    assert shown["recipe"] == json.loads(json.dumps(recipe.to_table()))
    by_path = {setting["path"]: setting for setting in shown["settings"]}
    steps = by_path["train.steps"]
    assert (steps["value"], steps["default"], steps["changed"]) == (6, None, True)
    assert steps["means"] == "Optimizer steps of the whole run; goes before `epochs` and `hours`."
    assert by_path["probes.knn.k"]["changed"]
    assert not by_path["optimizer.lr"]["changed"], "the recipe gives the default"


def test_every_setting_of_the_table_is_explained_and_none_besides() -> None:
    recipe = load_recipe("ijepa/demo")
    table = tomllib.loads(recipe.to_toml())
    flat = {
        f"{section}.{key}"
        for section, settings in table.items()
        if isinstance(settings, dict) and section not in ("terms", "probes")
        for key in settings
    }
    explained = {setting.path for setting in settings_of(recipe) if setting.value is not None}
    assert {path for path in explained if not path.startswith(("terms.", "probes."))} == flat
    assert {"terms.spread.weight", "probes.knn.k"} <= explained
