"""`jepa eval`: a run's newest checkpoint in the probe table, written to the run's folder as well."""

from __future__ import annotations

from pathlib import Path

import torch

from jepa_core.assembly import build, build_model
from jepa_core.data.splits import check_split
from jepa_core.errors import UserError, unknown
from jepa_core.evaluate.model import evaluate_model
from jepa_core.evaluate.table import EvalResult
from jepa_core.protocols import ROLES
from jepa_core.runs.load import open_model
from jepa_core.runtime.devices import use_bf16
from jepa_core.runtime.progress import Progress
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.recipe import Recipe


def evaluate_run(
    folder: Path,
    probes: list[str],
    split: str = "test",
    role: str = "target",
    progress: Progress | None = None,
) -> EvalResult:
    """The probe table of a run: trained encoder, a twin fresh from the run's seed, raw pixels.

    `probes` names those of the recipe that are wanted (none: all). The table goes to `eval.json` too.
    Raises UserError for an unknown probe, split or role, for probes asked for on images without labels,
    and for a folder that is no run.
    """
    check_split(split)
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    recipe, model, step = open_model(folder)
    wanted = {name: build("probe", _probe(recipe, name)) for name in probes or recipe.probes}
    device = next(model.parameters()).device
    result = evaluate_model(
        model,
        build_model(recipe).to(device),
        build("data", recipe.data),
        recipe.transform,
        wanted,
        split=split,
        role=role,
        workers=recipe.data.workers,
        device=device,
        dtype=torch.bfloat16 if use_bf16(recipe.train.precision, device) else None,
        progress=progress,
    )
    if probes and not any(table.classes for table in result.tables):
        raise UserError(
            f"probe {', '.join(probes)}: the images of this run have no labels, so there is nothing to fit; "
            "leave --probe out for RankMe and spread alone"
        )
    result = result.model_copy(update={"step": step})
    (folder / "eval.json").write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result


def _probe(recipe: Recipe, name: str) -> ComponentSettings:
    if name not in recipe.probes:
        raise unknown("probe", name, recipe.probes)
    return recipe.probes[name]
