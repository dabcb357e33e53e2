"""Search over settings: trials are arms, the best runs again on fresh seeds, and only that is tested."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.study.plan import load_study
from jepa_core.study.worker import read_study, work
from tests.core.study.conftest import WriteStudy

pytestmark = pytest.mark.long

SEARCH = """
recipe = "{recipe}"
probes = ["knn"]
seeds = [0]
metric = "rankme"
[arms.base]
[search]
trials = 3
fresh_seeds = [7, 8]
space = { "optimizer.lr" = { low = 1e-4, high = 1e-2, log = true }, "masker.name" = ["multiblock", "random"] }
"""


def test_trials_winner_and_fresh_seeds(
    write_study: WriteStudy, tmp_path: Path, jepa: Callable[..., Any]
) -> None:
    pytest.importorskip("optuna", reason="[search] needs jepa-core[study]")
    file = write_study(
        SEARCH.replace("trials = 3", f'trials = 3\nstorage = "sqlite:///{tmp_path}/optuna.db"')
    )
    cells = work(load_study(file), say=lambda text: None)
    assert {status.state for status in cells} == {"done"}
    names = [f"trial-000{number}/seed-0" for number in range(3)]
    names += [f"{arm}/seed-{seed}" for arm in ("base-fresh", "winner") for seed in (7, 8)]
    assert {status.cell.id for status in cells} == {"base/seed-0", *names}
    study, again = read_study(load_study(file))
    arms = {arm.name: arm for arm in study.arms}
    scores = {
        status.cell.arm: status.outcome["scores"]["rankme"]
        for status in again
        if status.cell.arm.startswith("trial")
    }
    assert arms["winner"].overrides == arms[max(scores, key=lambda name: scores[name])].overrides
    assert study.baseline_of(arms["winner"]) == arms["base-fresh"]
    assert jepa("study", "report", file).code == 0
    facts = json.loads((study.folder / "study.json").read_text(encoding="utf-8"))["arms"]
    assert facts["trial-0000"]["p_sign_flip"] is None
    assert facts["winner"]["baseline"] == "base-fresh"
    assert facts["winner"]["pairs"] == 2
    page = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "The winner ran again on fresh seeds" in page
    import optuna

    stored = optuna.load_study(study_name=study.name, storage=f"sqlite:///{tmp_path}/optuna.db")
    assert len(stored.trials) == 3
    assert stored.best_value == pytest.approx(max(scores.values()))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("fresh_seeds = [7, 8]", "fresh_seeds = [0]", "which is in seeds as well"),
        ("low = 1e-4", "low = 1.0", "low below high"),
        ("low = 1e-4", "low = -1.0", "low above 0"),
        ("trials = 3", 'sampler = "tpee"', "tpe, random, gp or cmaes"),
        ("[arms.base]", '[arms.base]\n[grid]\n"predictor.depth" = [1]', "a [grid] or a [search]"),
    ],
)
def test_what_is_wrong_with_a_search(
    old: str, new: str, what: str, write_study: WriteStudy, jepa: Callable[..., Any]
) -> None:
    said = jepa("study", "run", write_study(SEARCH.replace(old, new)))
    assert said.code == 2
    assert what in said.err


def test_without_optuna_it_says_what_to_install(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'jepa-core\[study\]'"):
        work(load_study(write_study(SEARCH)), say=lambda text: None)
