"""A study's folder: the ledger that its workers share, and the plan that says whose folder it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.study.budget import with_budget
from jepa_core.study.file_ledger import FileLedger
from jepa_core.study.ledger import Ledger
from jepa_core.study.metric import check_metric
from jepa_core.study.plan import Cell, Study, digest, identity_of
from jepa_core.study.search import with_trials

PLAN = "plan.json"
OWN = {
    *(PLAN, "cells", "claims", "shared", "superseded", "logs", "submit.sh"),
    *("cells.csv", "study.json", "report", "report.html"),
}
"""What a study has in its folder."""


def open_ledger(study: Study) -> Ledger:
    """Where the study's claims are kept. Raises UserError for a database that cannot be reached."""
    claims = study.settings.claims
    if claims == "files":
        return FileLedger(study.folder, study.settings.lease)
    if "://" not in claims:
        raise UserError(f"setting 'study.claims' is {claims!r}; expected files, or a database's URL")
    from jepa_core.study.database_ledger import DatabaseLedger

    return DatabaseLedger(claims, study.name, study.settings.lease)


def check_study(study: Study) -> None:
    """Resolves every arm. Raises UserError for the first thing that is wrong in one."""
    for dataset in study.datasets:
        for arm in study.arms:
            check_metric(study.settings.metric, study.recipe_of(arm, dataset), study.settings.probes)
    study.cells()


def resolve_study(study: Study, ledger: Ledger, *, measure: bool = True) -> tuple[Study, list[Cell]]:
    """The study with the arms of its search and the steps of its budget, and its cells.

    Where steps must be measured first and `measure` is false, raises UserError.
    """
    study = with_budget(with_trials(study, ledger), ledger, measure)
    return study, study.cells()


def fingerprint(study: Study) -> str:
    """Hash of all that two workers of one study must agree on."""
    plain = replace(study, steps={})
    recipes = [
        [arm.name, dataset, identity_of(plain.recipe_of(arm, dataset))]
        for arm in study.arms
        if arm.origin == "file"
        for dataset in study.datasets
    ]
    settings = study.settings.model_dump(mode="json", exclude={"claims", "lease", "threads", "retries"})
    return digest({"settings": settings, "recipes": recipes})


def check_folder(study: Study, cells: list[Cell]) -> None:
    """Raises UserError for a folder that is a file, that holds something else, or another study.

    The same file may have changed. Under another file's name it is the same study where one of the two plans
    holds all cells of the other.
    """
    folder = study.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the study's folder {str(folder)!r} is a file; name another with --folder")
    plan = read_plan(folder)
    if plan is None:
        foreign = sorted({*os.listdir(folder)} - OWN if folder.is_dir() else ())
        if foreign:
            raise UserError(
                f"{str(folder)!r} is not a study's folder, but holds {foreign[0]}; name another with --folder"
            )
        return
    pairs, stored_pairs = {(cell.id, cell.identity) for cell in cells}, {*map(tuple, plan["cells"].items())}
    same_file = plan.get("file") == (str(study.file.resolve()) if study.file else None)
    if not same_file and not (pairs <= stored_pairs or stored_pairs <= pairs):
        raise UserError(
            f"{str(folder)!r} is the folder of another study, {plan.get('name')!r} ({plan.get('file')}); "
            "name another with --folder"
        )


def write_plan(study: Study, cells: list[Cell]) -> None:
    """Makes the folder this study's. Raises UserError where it cannot be written."""
    plan = {
        "name": study.name,
        "file": str(study.file.resolve()) if study.file else None,
        "fingerprint": fingerprint(study),
        "recipe": study.settings.recipe,
        "metric": study.settings.metric,
        "split": study.settings.split,
        "baseline": study.baseline,
        "seeds": list(study.settings.seeds),
        "datasets": list(study.settings.datasets),
        "steps": dict(study.steps),
        "arms": {
            arm.name: {"base": arm.base, "factors": dict(arm.factors), "set": list(arm.overrides)}
            for arm in study.arms
        },
        "cells": {cell.id: cell.identity for cell in cells},
    }
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        if read_plan(study.folder) != plan:
            atomic_write(study.folder / PLAN, json.dumps(plan, indent=2) + "\n")
    except OSError as error:
        text = f"the study's folder {str(study.folder)!r} cannot be written: {error.strerror}"
        raise UserError(text) from None


def read_plan(folder: Path) -> Mapping[str, Any] | None:
    """The plan in a study's folder; None where there is none, or it cannot be understood."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) and isinstance(plan.get("cells"), dict) else None
