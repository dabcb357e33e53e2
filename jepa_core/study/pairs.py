"""`jepa study compare A B`: two arms by their folders, seed by seed, of one study or of two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError, unknown
from jepa_core.study.metric import is_lower_better, scores_of, shares_of
from jepa_core.study.statistics import Comparison, compare


@dataclass(frozen=True)
class PairedArms:
    """A compared with B; numbers are in percent where the metric is a share of 1."""

    metric: str
    percent: bool
    comparison: Comparison

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "metric": self.metric,
            "unit": "percent" if self.percent else "",
            **self.comparison.facts(),
        }


def compare_folders(first: Path, second: Path, metric: str) -> PairedArms:
    """Compares two arms: folders with runs `seed-S` (below, where there are several data sets).

    Raises UserError where the runs cannot be paired: other seeds, recipes of another seed in a folder, scores
    of another split, or a metric that one lacks.
    """
    tables = [_evaluations(folder) for folder in (first, second)]
    if tables[0].keys() != tables[1].keys():
        alone = sorted(tables[0].keys() ^ tables[1].keys())
        raise UserError(
            f"{first} and {second} are not paired: {', '.join(alone[:6])} "
            f"{'is' if len(alone) == 1 else 'are'} in one of them alone"
        )
    splits = {table["split"] for part in tables for table in part.values()}
    if len(splits) > 1:
        raise UserError(f"scores of different splits cannot be compared: {', '.join(sorted(splits))}")
    every = [table for part in tables for table in part.values()]
    known = set.intersection(*(set(scores_of(table)) for table in every))
    if metric not in known:
        raise unknown("metric", metric, known)
    percent = all(metric in shares_of(table) for table in every)
    scale = 100.0 if percent else 1.0
    arm_scores, peer_scores = (
        {key: scale * scores_of(table)[metric] for key, table in part.items()} for part in tables
    )
    maximise = not any(is_lower_better(table, metric) for table in every)
    return PairedArms(metric, percent, compare(arm_scores, peer_scores, maximise))


def _evaluations(arm: Path) -> dict[str, dict[str, Any]]:
    """The eval.json of every run below an arm's folder, by its path there."""
    if not arm.is_dir():
        raise UserError(f"{str(arm)!r} is no folder; expected an arm's, such as STUDY/cells/ARM")
    if (arm / "cells").is_dir():
        arms = ", ".join(sorted(path.name for path in (arm / "cells").iterdir() if path.is_dir()))
        raise UserError(f"{str(arm)!r} is a study; name one of its arms: {arm}/cells/… ({arms})")
    files = sorted([*arm.glob("seed-*/eval.json"), *arm.glob("*/seed-*/eval.json")])
    if not files:
        raise UserError(f"{str(arm)!r} holds no finished runs (seed-*/eval.json)")
    return {str(file.parent.relative_to(arm)): _read(file) for file in files}


def _read(file: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        scores_of(table)
        return table
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"{str(file)!r} is no probe table; `jepa eval` writes one") from None
