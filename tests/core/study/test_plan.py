"""A study's file: what it resolves to, and what is wrong with it, in one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.study.metric import check_metric
from jepa_core.study.plan import load_study, study_of
from jepa_core.study.store import check_study
from tests.core.study.conftest import THREE, WriteStudy

HEAD = 'recipe = "{recipe}"\nprobes = ["knn"]\n'


def load(write_study: WriteStudy, text: str, **named: Any) -> Any:
    study = load_study(write_study(text), **named)
    check_study(study)
    return study


def test_cells_come_seed_by_seed(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load(write_study, THREE)
    names = [cell.id for cell in study.cells()]
    assert names == [f"{arm}/seed-{seed}" for seed in (0, 1) for arm in ("multiblock", "random", "deep")]
    assert study.folder == tmp_path / "three"
    assert study.folder_of(study.cells()[0]) == tmp_path / "three/cells/multiblock/seed-0"
    assert len({cell.identity for cell in study.cells()}) == 6
    assert study.cells()[1].recipe.masker.name == "random"


def test_free_settings_do_not_change_a_cell(write_study: WriteStudy) -> None:
    def identities(more: str) -> list[str]:
        return [cell.identity for cell in load(write_study, f"set = [{more}]\n" + THREE).cells()]

    assert identities("") == identities('"train.log_every=3", "data.workers=1"')
    assert identities("") != identities('"train.steps=7"')


def test_a_grid_is_crossed_with_the_arms(write_study: WriteStudy) -> None:
    grid = '[arms.a]\n[arms.b]\nset = ["masker.name=random"]\n[grid]\n"predictor.depth" = [1, 2]\n'
    study = load(write_study, HEAD + 'seeds = [0]\nbaseline = "a"\n' + grid)
    names = [arm.name for arm in study.arms]
    assert names == [f"{arm},predictor.depth={depth}" for arm in "ab" for depth in (1, 2)]
    assert [study.baseline_of(arm) and study.baseline_of(arm).name for arm in study.arms] == [
        None,
        None,
        "a,predictor.depth=1",
        "a,predictor.depth=2",
    ]


def test_one_cell_of_a_grid_as_the_baseline(write_study: WriteStudy) -> None:
    text = (
        'baseline = "predictor.depth=1"\n[grid]\n"predictor.depth" = [1, 2]\n"masker.scale" = [[0.1, 0.2]]\n'
    )
    with pytest.raises(UserError, match="unknown arm"):
        load(write_study, HEAD + text)
    study = load(write_study, HEAD + '[grid]\n"predictor.depth" = [1, 2]\n')
    assert study.baseline == "predictor.depth=1"
    assert study.baseline_of(study.arms[1]) is study.arms[0]


def test_data_sets_are_crossed_too(write_study: WriteStudy) -> None:
    sets = '[datasets.small]\n[datasets.flipped]\nset = ["transform.flip=0.5"]\n'
    study = load(write_study, "seeds = [4]\n" + HEAD + "[arms.a]\n" + sets)
    assert [cell.id for cell in study.cells()] == ["a/small/seed-4", "a/flipped/seed-4"]


def test_python_takes_plain_values(tiny_recipe: Path, tmp_path: Path) -> None:
    study = study_of({"recipe": str(tiny_recipe), "arms": {"a": {}}}, tmp_path / "mine")
    assert study.name == "mine"
    assert len(study.cells()) == 6


BAD = [
    ('baseline = "multiblok"\n' + HEAD + "[arms.multiblock]\n", "unknown arm 'multiblok'", "Did you mean"),
    ('metric = "knn.top2"\n' + HEAD + "[arms.a]\n", "unknown metric 'knn.top2'", "knn.top1"),
    ('metric = "linear.top1"\n' + HEAD + "[arms.a]\n", "unknown metric 'linear.top1'", "rankme"),
    ("seeds = [1, 2, 1]\n" + HEAD + "[arms.a]\n", "'seeds' repeats 1", "each seed is one run"),
    ("seeds = []\n" + HEAD + "[arms.a]\n", "setting 'study.seeds' is []", ""),
    ("seeds = [-1]\n" + HEAD + "[arms.a]\n", "setting 'study.seeds' is [-1]", ""),
    (HEAD + "[arms.a]\n[arms.b]\n", "arms 'a' and 'b' resolve to the same recipe", ""),
    (HEAD + '[arms.a]\n[arms.b]\nset = ["masker=multiblock"]\n', "resolve to the same recipe", "masker"),
    (HEAD, "nothing to compare", "[arms.NAME]"),
    (HEAD + '[arms."a/b"]\n', "arm 'a/b'", "letters"),
    (HEAD + '[arms."../x"]\n', "arm '../x'", "letters"),
    (HEAD + "[arms.a]\n[arms.A]\n", "differ in case alone", ""),
    (HEAD + '[arms.a]\nset = ["masker.name=randm"]\n', "arm 'a': unknown masker 'randm'", "Did you mean"),
    (HEAD + '[arms.a]\nset = ["seed=4"]\n', "settings without `seed`", ""),
    (HEAD + "[arms.a]\nsets = []\n", "unknown setting", "Did you mean 'set'"),
    ('metrik = "x"\n' + HEAD + "[arms.a]\n", "unknown setting 'study.metrik'", "Did you mean 'metric'"),
    (HEAD + '[grid]\n"predictor.depth" = []\n', "has no values", ""),
    (HEAD + '[grid]\n"predictor.depth" = [1, 1]\n', "repeats 1", ""),
    (HEAD + '[grid]\n"seed" = [1, 2]\n', "stand in `seeds`", ""),
    (HEAD + '[grid]\n"predictor.dept" = [1]\n', "unknown setting 'predictor.dept'", "Did you mean"),
    ('split = "valid"\n' + HEAD + "[arms.a]\n", "setting 'study.split' is 'valid'", "val"),
    (HEAD + '[budget]\nper_cell = "5 mins"\n[arms.a]\n', "per_cell' is '5 mins'", "'5 min'"),
    (HEAD + '[budget]\nequal = "money"\n[arms.a]\n', "equal' is 'money'", "steps, time, flops or images"),
    ('probes = ["knnn"]\nrecipe = "{recipe}"\n[arms.a]\n', "unknown probe 'knnn'", "knn"),
    ('recipe = "ijepa/dem"\n[arms.a]\n', "unknown recipe 'ijepa/dem'", "Did you mean"),
    ("recipe = 3\n[arms.a]\n", "setting 'study.recipe' is 3", "text"),
    ("recipe = \n", "is not valid TOML", ""),
    ("[arms.a]\n", "setting 'study.recipe' is required", ""),
]


@pytest.mark.parametrize(("text", "what", "hint"), BAD, ids=[case[1][:40] for case in BAD])
def test_what_is_wrong_is_one_line(
    text: str, what: str, hint: str, write_study: WriteStudy, jepa: Callable[..., Any]
) -> None:
    file = write_study(text)
    said = jepa("study", "run", file)
    assert said.code == 2
    assert said.out == ""
    assert what in said.err
    assert hint in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not file.with_suffix("").exists()


def test_a_huge_grid_must_be_meant(write_study: WriteStudy) -> None:
    values = list(range(1, 102))
    text = HEAD + f'seeds = [0]\n[grid]\n"predictor.depth" = {values}\n"optimizer.warmup_steps" = {values}\n'
    file = write_study(text)
    with pytest.raises(UserError, match="10,201 cells, more than 10,000; --yes"):
        load_study(file)
    assert len(load_study(file, yes=True).arms) == 10_201


def test_files_that_are_no_study(tmp_path: Path, write_study: WriteStudy) -> None:
    for file, what in ((tmp_path / "none.toml", "does not exist"), (tmp_path, "is no file")):
        with pytest.raises(UserError, match=what):
            load_study(file)
    file = tmp_path / "latin.toml"
    file.write_bytes(b'recipe = "\xe4"')
    with pytest.raises(UserError, match="UTF-8"):
        load_study(file)


def test_a_plugins_probe_is_not_judged_before_it_ran(tiny_recipe: Path) -> None:
    from jepa_core import load_recipe

    recipe = load_recipe(tiny_recipe)
    check_metric("feature_std", recipe, ())
    with pytest.raises(UserError, match="unknown metric"):
        check_metric("knn", recipe, ())
