"""The score that a study compares: a number of a probe table, by name.

`PROBE.SCORE` is a probe's score of the run's own encoder (the first row of eval.json), `rankme` and
`feature_std` are the row's own numbers; `TASK/PROBE.SCORE` is a score on one of several tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jepa_core.errors import UserError, unknown
from jepa_core.settings.recipe import Recipe

ROW_SCORES = ("rankme", "feature_std")

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
    return {name: value for name, value in scores.items() if value is not None and math.isfinite(value)}


def failure_of(table: Mapping[str, Any], metric: str) -> str:
    """Why a score is not a number, as the table says; "" where it does not."""
    for part in (table, *table.get("others", ())):
        failures = part["rows"][0].get("failures", {})
        reason = failures.get(metric.rpartition("/")[2].partition(".")[0]) or failures.get("features")
        if reason:
            return str(reason)
    return ""


def shares_of(table: Mapping[str, Any]) -> list[str]:
    """Names of the scores that are shares of 1: each probe's first score and its standard error."""
    names = []
    for number, part in enumerate((table, *table.get("others", ()))):
        prefix = f"{part['task']}/" if number else ""
        for probe, values in part["rows"][0]["scores"].items():
            first = next(iter(values))
            names += [f"{prefix}{probe}.{name}" for name in values if name in (first, f"{first}_se")]
    return names


def check_metric(metric: str, recipe: Recipe, probes: tuple[str, ...]) -> None:
    """Raises UserError for a metric that no evaluation of the recipe can give, or probes it does not have.

    What the probes of a plugin return is known only once one ran, so of theirs the probe is checked alone.
    """
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


def value_of(scores: Mapping[str, float], metric: str) -> float:
    """The metric among a cell's scores. Raises UserError where it is not."""
    if metric not in scores:
        raise unknown("metric", metric, scores)
    return scores[metric]


def check_labels(table: Mapping[str, Any]) -> None:
    """Raises UserError for an evaluation whose images have no labels, where a probe's score is wanted."""
    if not table["rows"][0]["scores"]:
        raise UserError("the images have no labels, so no probe has a score; choose rankme or feature_std")
