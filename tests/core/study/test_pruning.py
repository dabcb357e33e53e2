"""Trials that are behind after their first seeds get no further ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jepa_core.study import load_study, work
from jepa_core.study.file_ledger import FileLedger
from jepa_core.study.plan import Arm
from jepa_core.study.pruning import prune_trials, pruned_key, seed_means
from jepa_core.study.search import trial_values
from tests.core.study.conftest import WriteStudy

optuna = pytest.importorskip("optuna", reason="[search] needs jepa-core[study]")

SEARCH = """
recipe = "{recipe}"
probes = ["knn"]
seeds = [0, 1, 2]
metric = "rankme"
[arms.base]
[search]
trials = 3
pruner = "median"
pruner_trials = 1
fresh_seeds = [7]
space = { "optimizer.lr" = { low = 1e-4, high = 1e-2, log = true } }
"""


def cells_of(scores: dict[str, Sequence[float | None]]) -> Any:
    """Statuses of trials with these scores by seed; None: the cell waits."""
    return [
        SimpleNamespace(
            cell=SimpleNamespace(arm=arm, seed=seed, id=f"{arm}/seed-{seed}"),
            state="waiting" if score is None else "done",
            outcome={} if score is None else {"scores": {"rankme": score}},
        )
        for arm, values in scores.items()
        for seed, score in enumerate(values)
    ]


def study_with(write_study: WriteStudy, names: Sequence[str]) -> Any:
    study = load_study(write_study(SEARCH))
    return replace(study, arms=(*study.arms, *(Arm(name, "", {}, (), None, "trial") for name in names)))


def test_the_mean_after_each_seed_ends_where_one_waits(write_study: WriteStudy) -> None:
    study = study_with(write_study, ["trial-0000"])
    assert seed_means(study, "trial-0000", cells_of({"trial-0000": [1.0, 3.0, 5.0]})) == {
        1: 1.0,
        2: 2.0,
        3: 3.0,
    }
    assert seed_means(study, "trial-0000", cells_of({"trial-0000": [1.0, None, 5.0]})) == {1: 1.0}
    assert seed_means(study, "trial-0000", cells_of({"trial-0000": [None, 2.0, 5.0]})) == {}


def test_a_trial_below_the_median_is_pruned_and_one_above_is_not(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    names = [f"trial-000{number}" for number in range(4)]
    study, ledger = study_with(write_study, names), FileLedger(tmp_path / "ledger")
    cells = cells_of(
        {
            names[0]: [5.0, 5.0, 5.0],
            names[1]: [6.0, 6.0, 6.0],
            names[2]: [1.0, None, None],
            names[3]: [9.0, None, None],
        }
    )
    assert prune_trials(study, ledger, cells)
    assert ledger.shared_value(pruned_key(names[2])) == {"seeds": [0], "value": 1.0}
    assert ledger.shared_value(pruned_key(names[3])) is None
    kept = [replace(arm, seeds=(0,)) if arm.name == names[2] else arm for arm in study.arms]
    later = [cell for cell in cells if cell.cell.arm != names[2] or cell.cell.seed == 0]
    values = trial_values(replace(study, arms=tuple(kept)), later)
    assert values == {names[0]: 5.0, names[1]: 6.0, names[2]: "pruned", names[3]: "running"}


def test_the_least_is_kept_where_less_is_better(write_study: WriteStudy, tmp_path: Path) -> None:
    names = ["trial-0000", "trial-0001"]
    study = load_study(
        write_study(SEARCH.replace('pruner = "median"', 'pruner = "median"\nmaximise = false'))
    )
    study = replace(study, arms=(*study.arms, *(Arm(name, "", {}, (), None, "trial") for name in names)))
    cells = cells_of({names[0]: [5.0, 5.0, 5.0], names[1]: [1.0, None, None]})
    assert not prune_trials(study, FileLedger(tmp_path / "ledger"), cells)


@pytest.mark.parametrize(
    ("old", "new"), [('pruner = "median"', ""), ("pruner_trials = 1", "pruner_trials = 2")]
)
def test_nothing_is_pruned_unasked_or_too_early(
    write_study: WriteStudy, tmp_path: Path, old: str, new: str
) -> None:
    names = ["trial-0000", "trial-0001"]
    study = load_study(write_study(SEARCH.replace(old, new)))
    study = replace(study, arms=(*study.arms, *(Arm(name, "", {}, (), None, "trial") for name in names)))
    cells = cells_of({names[0]: [5.0, 5.0, 5.0], names[1]: [1.0, None, None]})
    assert not prune_trials(study, FileLedger(tmp_path / "ledger"), cells)


@pytest.mark.slow
def test_a_search_with_a_pruner_ends_with_a_winner(write_study: WriteStudy) -> None:
    cells = work(load_study(write_study(SEARCH)), say=lambda text: None)
    assert {status.state for status in cells} == {"done"}
    by_arm: dict[str, list[int]] = {}
    for status in cells:
        by_arm.setdefault(status.cell.arm, []).append(status.cell.seed)
    assert by_arm["trial-0000"] == [0, 1, 2]
    assert by_arm["winner"] == [7]
    scores = {
        arm: [status.outcome["scores"]["rankme"] for status in cells if status.cell.arm == arm]
        for arm in by_arm
    }
    for arm in ("trial-0001", "trial-0002"):
        if len(by_arm[arm]) < 3:
            first = len(by_arm[arm])
            others = [sum(own[:first]) / first for other, own in scores.items() if other.startswith("trial")]
            assert sum(scores[arm]) / first < max(others)
