"""Pruning of whole trials: a trial that is behind after its first seeds gets no further ones.

Optuna's pruner decides, on what every worker can read: after each seed of a trial, in the order of the
study's seeds, the mean so far. A pruned trial keeps the cells that it has, is told to Optuna as pruned, and
cannot win.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jepa_core.study.ledger import Ledger
from jepa_core.study.plan import Study
from jepa_core.study.settings import SearchSettings
from jepa_core.study.worker_states import FINISHED, CellStatus


def pruned_key(trial: str) -> str:
    """The ledger's name of the value that a trial is pruned by: `{"seeds": [...]}`, those that it keeps."""
    return f"pruned-{trial}"


def seed_means(study: Study, trial: str, cells: Sequence[CellStatus]) -> dict[int, float]:
    """The mean of the metric after each seed of a trial, from 1 on, as far as its first seeds have scores."""
    by_seed: dict[int, list[CellStatus]] = {}
    for status in cells:
        if status.cell.arm == trial:
            by_seed.setdefault(status.cell.seed, []).append(status)
    scores: list[float] = []
    means: dict[int, float] = {}
    for seed in study.settings.seeds:
        own = [
            status.outcome.get("scores", {}).get(study.settings.metric) for status in by_seed.get(seed, ())
        ]
        ended = all(status.state in FINISHED for status in by_seed.get(seed, ()))
        if not own or None in own or not ended:
            break
        scores.append(statistics.fmean(own))
        means[len(scores)] = statistics.fmean(scores)
    return means


def prune_trials(study: Study, ledger: Ledger, cells: Sequence[CellStatus]) -> bool:
    """Prunes the trials that Optuna's pruner gives up, with `search.pruner`; whether there was one."""
    search = study.settings.search
    if search is None or search.pruner == "none":
        return False
    trials = [arm.name for arm in study.arms if arm.origin == "trial" and arm.seeds is None]
    pruned = False
    for name in trials:
        own = [status for status in cells if status.cell.arm == name]
        means = seed_means(study, name, cells)
        if not means or not any(status.state == "waiting" for status in own):
            continue
        others = {other: seed_means(study, other, cells) for other in trials if other != name}
        if _is_behind(search, means, others):
            seeds = list(study.settings.seeds[: len(means)])
            ledger.share(pruned_key(name), {"seeds": seeds, "value": means[len(means)]})
            pruned = True
    return pruned


def _is_behind(
    search: SearchSettings, means: Mapping[int, float], others: Mapping[str, Mapping[int, float]]
) -> bool:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    known = optuna.create_study(direction="maximize" if search.maximise else "minimize")
    for other in others.values():
        if len(other) >= len(means):
            known.add_trial(_trial(states.COMPLETE, other))
    running = _trial(states.RUNNING, means)
    known.add_trial(running)
    pruner: Any = (
        optuna.pruners.MedianPruner(n_startup_trials=search.pruner_trials)
        if search.pruner == "median"
        else optuna.pruners.PercentilePruner(25.0, n_startup_trials=search.pruner_trials)
    )
    return bool(pruner.prune(known, known.trials[-1]))


def _trial(state: Any, means: Mapping[int, float]) -> Any:
    import optuna

    value = means[max(means)] if means and state == optuna.trial.TrialState.COMPLETE else None
    return optuna.trial.create_trial(state=state, value=value, intermediate_values=dict(means))
