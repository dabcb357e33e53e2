"""Search over settings: trials by Optuna's ask-and-tell, each an arm; the best one runs again on fresh seeds.

The study's ledger is the truth: trials and the winner are values that all workers share, and Optuna is asked
anew each time with what is known. So workers may die at any time, and nothing is kept in two places. A trial
is proposed when no cell is waiting; its value is the mean of the metric over the seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jepa_core.errors import UserError
from jepa_core.settings.describe import toml
from jepa_core.study.ledger import Ledger
from jepa_core.study.plan import Arm, Study
from jepa_core.study.pruning import pruned_key
from jepa_core.study.settings import RangeSettings, SearchSettings
from jepa_core.study.worker_states import FINISHED, CellStatus

if TYPE_CHECKING:
    import optuna

WINNER = "winner"


def with_trials(study: Study, ledger: Ledger) -> Study:
    """The study with the arms of its search: the trials, and the winner and its baseline on fresh seeds."""
    search = study.settings.search
    if search is None:
        return study
    arms = [arm for arm in study.arms if arm.origin == "file"]
    trials = [
        Arm(name, "", {}, overrides_of(params), _seeds_kept(ledger, name), "trial")
        for name, params in read_trials(ledger)
    ]
    winner = ledger.shared_value(WINNER)
    if winner is not None:
        chosen = next(trial for trial in trials if trial.name == winner["trial"])
        base = next(arm for arm in arms if study.baseline in (arm.base, arm.name))
        seeds = search.fresh_seeds
        trials.append(Arm(f"{base.name}-fresh", base.base, base.factors, base.overrides, seeds, "winner"))
        trials.append(Arm(WINNER, "", {}, chosen.overrides, seeds, "winner"))
    return replace(study, arms=(*arms, *trials))


def _seeds_kept(ledger: Ledger, trial: str) -> tuple[int, ...] | None:
    """The seeds of a trial that was pruned; None: all of the study's."""
    pruned = ledger.shared_value(pruned_key(trial))
    return None if pruned is None else tuple(pruned["seeds"])


def read_trials(ledger: Ledger) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, settings by key) of every trial so far, in order."""
    number = 0
    while (trial := ledger.shared_value(f"trial-{number:04d}")) is not None:
        yield f"trial-{number:04d}", trial["params"]
        number += 1


def overrides_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """A trial's settings as `section.setting=value`."""
    return tuple(f"{key}={toml(value)}" for key, value in params.items())


def advance(study: Study, ledger: Ledger, cells: Sequence[CellStatus]) -> bool:
    """Proposes the next trial, or chooses the winner once all have ended; False where there is nothing to do.

    Called where no cell waits. Raises UserError where Optuna is missing, or takes the space for none.
    """
    search = study.settings.search
    if search is None or ledger.shared_value(WINNER) is not None:
        return False
    trials = list(read_trials(ledger))
    if len(trials) < search.trials:
        params = _ask(study, search, trials, trial_values(study, cells))
        ledger.share(f"trial-{len(trials):04d}", {"params": params})
        return True
    values = trial_values(study, cells)
    if any(values[name] == "running" for name, _ in trials):
        return False
    scored = {name: value for name, value in values.items() if isinstance(value, float)}
    if not scored:
        raise UserError("no trial of the search has a score: all have diverged, failed or were pruned")
    best = max(scored, key=lambda name: scored[name] if search.maximise else -scored[name])
    ledger.share(WINNER, {"trial": best, "value": scored[best]})
    _record(study, search, trials, values)
    return True


def trial_values(study: Study, cells: Sequence[CellStatus]) -> dict[str, float | str]:
    """Each trial's mean over its seeds; "running" until all have ended, "failed" where one has no score,
    "pruned" where it was given up."""
    values: dict[str, float | str] = {}
    for arm in study.arms:
        own = [status for status in cells if status.cell.arm == arm.name]
        if arm.origin != "trial" or not own:
            continue
        scores = [status.outcome.get("scores", {}).get(study.settings.metric) for status in own]
        if any(status.state in ("waiting", "running") for status in own):
            values[arm.name] = "running"
        elif arm.seeds is not None:
            values[arm.name] = "pruned"
        elif None in scores or any(status.state not in FINISHED for status in own):
            values[arm.name] = "failed"
        else:
            values[arm.name] = statistics.fmean(scores)
    return values


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("[search] needs Optuna: pip install 'jepa-core[study]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _ask(
    study: Study,
    search: SearchSettings,
    trials: Sequence[tuple[str, Mapping[str, Any]]],
    values: Mapping[str, float | str],
) -> dict[str, Any]:
    """The settings of the next trial, drawn from a seed of its own."""
    optuna = _optuna()
    sampler = _sampler(search, len(trials))
    known = optuna.create_study(sampler=sampler, direction=_direction(search))
    _add(known, search, trials, values)
    try:
        asked = known.ask(_distributions(search))
    except ImportError as error:
        raise UserError(f"search.sampler {search.sampler!r} needs {error.name}: pip install it") from None
    return {key: asked.params[key] for key in search.space}


def _sampler(search: SearchSettings, number: int) -> Any:
    samplers, seed = _optuna().samplers, search.seed * 100_003 + number
    if search.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if search.sampler == "gp":
        return samplers.GPSampler(seed=seed)
    if search.sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed)
    return samplers.TPESampler(seed=seed, constant_liar=True)


def _direction(search: SearchSettings) -> str:
    return "maximize" if search.maximise else "minimize"


def _distributions(search: SearchSettings) -> dict[str, Any]:
    return {key: _distribution(entry) for key, entry in search.space.items()}


def _distribution(entry: RangeSettings | tuple[Any, ...]) -> Any:
    distributions = _optuna().distributions
    if not isinstance(entry, RangeSettings):
        return distributions.CategoricalDistribution(entry)
    if entry.whole:
        return distributions.IntDistribution(round(entry.low), round(entry.high), log=entry.log)
    return distributions.FloatDistribution(entry.low, entry.high, log=entry.log)


def _add(
    known: optuna.Study,
    search: SearchSettings,
    trials: Sequence[tuple[str, Mapping[str, Any]]],
    values: Mapping[str, float | str],
) -> None:
    """Adds the trials so far to an Optuna study."""
    optuna, states = _optuna(), _optuna().trial.TrialState
    for name, params in trials:
        value = values.get(name, "running")
        state = {"failed": states.FAIL, "pruned": states.PRUNED}.get(str(value), states.RUNNING)
        scored: dict[str, Any] = {}
        if isinstance(value, float):
            scored = {"value": value, "state": states.COMPLETE}
        facts = {"params": dict(params), "distributions": _distributions(search), "user_attrs": {"arm": name}}
        known.add_trial(optuna.trial.create_trial(**{"state": state, **scored}, **facts))


def _record(
    study: Study,
    search: SearchSettings,
    trials: Sequence[tuple[str, Mapping[str, Any]]],
    values: Mapping[str, float | str],
) -> None:
    """Writes the finished trials into the Optuna storage of the settings, where there is one."""
    if search.storage is None:
        return
    optuna = _optuna()
    try:
        names = {"study_name": study.name, "storage": search.storage}
        known = optuna.create_study(**names, direction=_direction(search), load_if_exists=True)
        if not known.trials:
            _add(known, search, trials, values)
    except Exception as error:  # the storage is for a dashboard; the study's own results do not depend on it
        raise UserError(f"search.storage {search.storage!r} cannot be used: {error}") from None
