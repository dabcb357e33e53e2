"""The score that a study compares: a number of a probe table, by name.

`PROBE.SCORE` is a probe's score of the run's own encoder (the first row of eval.json), `rankme` and
`feature_std` are the row's own numbers; `TASK/PROBE.SCORE` is a score on one of several tasks.
`evaluations.NAME.SCORE` is a score of an evaluation that sees the model, of its first task;
`TASK/evaluations.NAME.SCORE` of a further one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jepa_core.errors import UserError, unknown
from jepa_core.evaluate.model_evaluations import choose_evaluations
from jepa_core.evaluate.score_tables import SHARE
from jepa_core.settings.recipe import Recipe

ROW_SCORES = ("rankme", "feature_std")

EVALUATIONS = "evaluations."
"""How the names of scores of evaluations that see the model begin."""

KNOWN_SCORES = {"knn": ("top1", "top1_se"), "linear": ("top1", "top1_se", "l2")}
"""Scores of core's probes, by the probe's registered name."""


def scores_of(table: Mapping[str, Any]) -> dict[str, float]:
    """All scores in an eval.json that are numbers, by name; the first task's without the task's name."""
    scores: dict[str, float | None] = {}
    for number, part in enumerate((table, *table.get("others", ()))):
        row = part["rows"][0]
        prefix = f"{part['task']}/" if number else ""
        scores |= {f"{prefix}{name}": row[name] for name in ROW_SCORES}
        for probe, values in row["scores"].items():
            scores |= {f"{prefix}{probe}.{name}": value for name, value in values.items()}
    scores |= {name: score["value"] for name, score in _evaluation_scores(table).items()}
    return {name: value for name, value in scores.items() if value is not None and math.isfinite(value)}


def _evaluation_scores(table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The scores of evaluations that see the model, of the run's own row, by their metric's name."""
    scores: dict[str, Mapping[str, Any]] = {}
    begun = set()
    for part in table.get("evaluations", ()):
        prefix = f"{part['task']}/" if part["name"] in begun else ""
        begun.add(part["name"])
        own = part["rows"][0]["scores"] if part["rows"] else {}
        scores |= {f"{prefix}{EVALUATIONS}{part['name']}.{name}": score for name, score in own.items()}
    return scores


def is_lower_better(table: Mapping[str, Any], metric: str) -> bool:
    """Whether a score is the better the lower it is, as the evaluation that gives it says."""
    score = _evaluation_scores(table).get(metric)
    return score is not None and score["better"] == "lower"


def failure_of(table: Mapping[str, Any], metric: str) -> str:
    """Why a score is not a number, as the table says; "" where it does not."""
    name = metric.rpartition("/")[2]
    if name.startswith(EVALUATIONS):
        of_evaluation = name.removeprefix(EVALUATIONS).partition(".")[0]
        errors = [p.get("error", "") for p in table.get("evaluations", ()) if p["name"] == of_evaluation]
        return next(filter(None, errors), "")
    for part in (table, *table.get("others", ())):
        failures = part["rows"][0].get("failures", {})
        reason = failures.get(metric.rpartition("/")[2].partition(".")[0]) or failures.get("features")
        if reason:
            return str(reason)
    return ""


def shares_of(table: Mapping[str, Any]) -> list[str]:
    """Names of the scores that are shares of 1: each probe's first score and its standard error, and those
    of evaluations that say so.
    """
    names = []
    for number, part in enumerate((table, *table.get("others", ()))):
        prefix = f"{part['task']}/" if number else ""
        for probe, values in part["rows"][0]["scores"].items():
            first = next(iter(values))
            names += [f"{prefix}{probe}.{name}" for name in values if name in (first, f"{first}_se")]
    shares = [name for name, score in _evaluation_scores(table).items() if score["unit"] == SHARE]
    return [*names, *shares]


def check_metric(metric: str, recipe: Recipe, probes: tuple[str, ...]) -> None:
    """Raises UserError for a metric that no evaluation of the recipe can give, or probes it does not have.

    What the probes of a plugin and evaluations return is known only once one ran, so of theirs the probe or
    evaluation is checked alone.
    """
    if metric.rpartition("/")[2].startswith(EVALUATIONS):
        return _check_evaluation(metric.rpartition("/")[2], recipe)
    for name in probes:
        if name not in recipe.probes:
            raise unknown("probe", name, recipe.probes)
    fitted = probes or tuple(recipe.probes)
    by_probe = {name: KNOWN_SCORES.get(recipe.probes[name].name, ("…",)) for name in fitted}
    known = [*(f"{name}.{score}" for name, scores in by_probe.items() for score in scores), *ROW_SCORES]
    name = metric.rpartition("/")[2]
    probe, dot, _ = name.partition(".")
    of_a_plugin = dot and probe in fitted and recipe.probes[probe].name not in KNOWN_SCORES
    if name not in known and not of_a_plugin:
        raise unknown("metric", metric, known)


def _check_evaluation(metric: str, recipe: Recipe) -> None:
    """Raises UserError for an evaluation that no plugin offers, or that the recipe leaves out."""
    offered = choose_evaluations(recipe, None)
    name, dot, score = metric.removeprefix(EVALUATIONS).partition(".")
    if name not in offered or not (dot and score):
        raise unknown("metric", metric, [f"{EVALUATIONS}{name}.…" for name in offered])


def value_of(scores: Mapping[str, float], metric: str) -> float:
    """The metric among a cell's scores. Raises UserError where it is not."""
    if metric not in scores:
        raise unknown("metric", metric, scores)
    return scores[metric]


def check_labels(table: Mapping[str, Any]) -> None:
    """Raises UserError for an evaluation whose images have no labels, where a probe's score is wanted."""
    if not table["rows"][0]["scores"]:
        raise UserError("the images have no labels, so no probe has a score; choose rankme or feature_std")
