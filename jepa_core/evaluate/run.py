"""`jepa eval`: the newest checkpoint of runs in the probe table, written to each run's folder as well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from jepa_core.assembly import build, build_encoder, build_model
from jepa_core.data.splits import check_split
from jepa_core.errors import UserError, unknown
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.evaluations import check_run_writable, check_writable, table_files, write_to
from jepa_core.evaluate.model import evaluate_models
from jepa_core.evaluate.model_evaluations import choose_evaluations, evaluate_with
from jepa_core.evaluate.row_cache import Key, RowCache, code_hash, software
from jepa_core.evaluate.setup import Evaluation, ModelPair, Setup
from jepa_core.evaluate.table import EvalResult
from jepa_core.evaluate.transfer import transfer_origin
from jepa_core.jepa import JEPA
from jepa_core.protocols import Role
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runs.load import fields_of_run, open_initial_model, open_model
from jepa_core.runtime.devices import usable_device, use_bf16
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.roles import check_role, encoder_name

OVERRIDDEN = ("data", "probes", "transform", "train", "evaluations")
"""Sections that an evaluation may override; others would make another model."""
AT_ONCE = 8
"""Runs whose models are in memory together."""


@dataclass(frozen=True)
class Choice:
    """What is asked of an evaluation."""

    probes: Sequence[str]
    """Of the recipe's; none: all."""
    split: str
    role: Role
    images: int | None
    overrides: Sequence[str]
    cache: bool
    evaluations: Sequence[str] | None = None
    """Of those that see the model; None: all that the recipe does not leave out."""


def evaluate_run(
    folder: Path,
    probes: Sequence[str],
    split: str = "test",
    role: str = "target",
    progress: Progress | None = None,
    *,
    overrides: Sequence[str] = (),
    images: int | None = None,
    out: Path | None = None,
    cache: bool = True,
    evaluations: Sequence[str] | None = None,
) -> EvalResult:
    """The probe table of a run: trained encoder, a twin fresh from the run's seed, raw pixels.

    `probes` names those of the recipe that are wanted (none: all), `evaluations` those that see the model
    (None: all that the recipe does not leave out), `overrides` are `section.key=value` on the recipe
    (`OVERRIDDEN` sections; another `data` judges the encoder by transfer), `images` evaluates on so many
    samples of each split, a seeded draw.
    The table goes to `eval.json` and `evaluations/` in the run's folder, with the probes' guesses beside it;
    or to the file `out` instead. Twin and pixels may come from the cache in the data folder.
    Raises UserError for an unknown probe, split or role, for probes asked for on images without labels, for a
    folder that is no run or cannot be written (before any work).
    """
    return evaluate_runs(
        [folder],
        probes,
        split,
        role,
        progress,
        overrides=overrides,
        images=images,
        out=out,
        cache=cache,
        evaluations=evaluations,
    )[0]


def evaluate_runs(
    folders: Sequence[Path],
    probes: Sequence[str],
    split: str = "test",
    role: str = "target",
    progress: Progress | None = None,
    *,
    overrides: Sequence[str] = (),
    images: int | None = None,
    out: Path | None = None,
    cache: bool = True,
    evaluations: Sequence[str] | None = None,
) -> list[EvalResult]:
    """The probe tables of several runs, in their order; those on the same data share the reading of them.

    Each run's table is written to its folder, as `evaluate_run` does; with `out`, a folder then, to a file
    of the run's name in it. Raises UserError as `evaluate_run` does.
    """
    check_split(split)
    if images is not None and images < 2:
        raise UserError(f"an evaluation takes 2 images or more; got {images}")
    _check_overrides(overrides)
    choice = Choice(probes, split, role, images, overrides, cache, evaluations)
    recipes = [read_run_recipe(folder, *overrides) for folder in folders]
    for recipe in recipes:
        check_role(role, recipe.encoders)
        _chosen_probes(recipe, choice)
        choose_evaluations(recipe, evaluations)
    files = table_files(folders, out)
    for folder, file in zip(folders, files, strict=True):
        check_writable(file) if out else check_run_writable(folder)
    groups = [_group_key(*run, choice) for run in zip(folders, recipes, strict=True)]
    order = sorted(range(len(folders)), key=lambda number: groups[number])
    results: dict[int, EvalResult] = {}
    for _, group in groupby(order, key=lambda number: groups[number]):
        for numbers in _portions(list(group), AT_ONCE):
            together = [(folders[number], recipes[number]) for number in numbers]
            finished = _evaluate_together(together, choice, progress or NoProgress())
            for number, evaluation in zip(numbers, finished, strict=True):
                write_to(
                    folders[number], files[number] if out else None, evaluation.result, evaluation.predictions
                )
                results[number] = evaluation.result
    return [results[number] for number in range(len(folders))]


def _evaluate_together(
    runs: Sequence[tuple[Path, Recipe]], choice: Choice, progress: Progress
) -> list[Evaluation]:
    """The evaluations of runs that have data, transform, probes and precision in common."""
    recipe = runs[0][1]
    device = usable_device(recipe.train.device)
    source = build("data", recipe.data)
    models, steps, origins = [], [], []
    for folder, run_recipe in runs:
        own_recipe, model, step = open_model(folder)
        twin = build_model(own_recipe, model.fields)
        twin.transforms = model.transforms
        initial = open_initial_model(folder, own_recipe)
        settings = _feature_settings(run_recipe, model, choice.role)
        models.append(ModelPair(model.to(device), twin.to(device), initial, settings))
        steps.append(step)
        origins.append((folder, own_recipe.data))
    chosen = _chosen_probes(recipe, choice)
    setup = Setup(
        source,
        recipe.transform,
        {name: build("probe", settings) for name, settings in chosen.items()},
        split=choice.split,
        role=choice.role,
        workers=recipe.data.workers,
        images=choice.images,
        max_corrupt=recipe.data.max_corrupt,
        device=device,
        dtype=torch.bfloat16 if use_bf16(recipe.train.precision, device) else None,
        progress=progress,
        source_name=recipe.data.name,
        probe_settings={name: settings.model_dump(mode="json") for name, settings in chosen.items()},
        cache=RowCache.standard() if choice.cache else None,
        cache_key=_cache_key(recipe, choice, device),
    )
    evaluations = evaluate_models(models, setup)
    if choice.probes and not any(table.classes for table in evaluations[0].result.tables):
        raise UserError(
            f"probe {', '.join(choice.probes)}: the images of this run have no labels, so there is nothing "
            "to fit; leave --probes out for RankMe and spread alone"
        )
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    note = setup.samples("train").note if choice.overrides else ""
    finished = []
    for evaluation, pair, step, origin, (_, run_recipe) in zip(
        evaluations, models, steps, origins, runs, strict=True
    ):
        transfer = transfer_origin(*origin, run_recipe.data, note)
        tables = evaluate_with(
            choose_evaluations(run_recipe, choice.evaluations), _context(run_recipe, pair, setup, transfer)
        )
        facts = {"step": step, "time": now, "transfer": transfer, "evaluations": tuple(tables)}
        finished.append(Evaluation(_with_facts(evaluation.result, facts), evaluation.predictions))
    return finished


def _with_facts(result: EvalResult, facts: Mapping[str, Any]) -> EvalResult:
    """The result with further facts; the tables of other tasks tell of a transfer too."""
    others = [table.model_copy(update={"transfer": facts["transfer"]}) for table in result.others]
    return result.model_copy(update={**facts, "others": tuple(others)})


def _context(recipe: Recipe, pair: ModelPair, setup: Setup, transfer: str | None) -> EvaluationContext:
    return EvaluationContext(
        recipe,
        pair.model,
        pair.twin,
        setup.source,
        setup.split,
        setup.role,
        setup.images,
        setup.batch_size,
        setup.device,
        progress=setup.progress,
        transfer=transfer,
        splits=setup.splits,
        initial=pair.initial,
    )


def _encoder_settings(recipe: Recipe, role: Role) -> ComponentSettings:
    name = encoder_name(role)
    return recipe.encoders[name] if name else recipe.encoder


def _feature_settings(recipe: Recipe, model: JEPA, role: Role) -> dict[str, object]:
    """What a twin's features depend on besides its weights: a plugin's own way of taking them as well."""
    settings: dict[str, object] = {"encoder": _encoder_settings(recipe, role).model_dump(mode="json")}
    if type(model).features is not JEPA.features:
        settings["variant"] = recipe.variant.model_dump(mode="json")
    return settings


def _cache_key(recipe: Recipe, choice: Choice, device: torch.device) -> Key:
    """What a row depends on besides the encoder."""
    probes = _chosen_probes(recipe, choice)
    classes = {type(build("probe", settings)) for settings in probes.values()}
    return {
        "data": recipe.data.model_dump(mode="json", exclude={"workers", "max_corrupt"}),
        "transform": recipe.transform.model_dump(mode="json"),
        "probes": {name: settings.model_dump(mode="json") for name, settings in probes.items()},
        "code": code_hash(classes),
        "bf16": use_bf16(recipe.train.precision, device),
        "device": device.type,
        "software": software(),
    }


def _group_key(folder: Path, recipe: Recipe, choice: Choice) -> str:
    """Equal for runs that can be evaluated in one pass over the data."""
    settings, fields = _encoder_settings(recipe, choice.role), fields_of_run(folder, recipe)
    encoder = build_encoder(encoder_name(choice.role), settings, fields)
    facts: list[Any] = [
        recipe.data.model_dump(mode="json"),
        recipe.transform.model_dump(mode="json"),
        {name: settings.model_dump(mode="json") for name, settings in _chosen_probes(recipe, choice).items()},
        [recipe.train.device, recipe.train.precision],
        [encoder_name(choice.role), *encoder.view_shape()],
    ]
    return json.dumps(facts, sort_keys=True)


def _portions(numbers: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), most):
        yield numbers[first : first + most]


def _chosen_probes(recipe: Recipe, choice: Choice) -> dict[str, ComponentSettings]:
    """The probes that are wanted, by name. Raises UserError for one that the recipe has not."""
    for name in choice.probes:
        if name not in recipe.probes:
            raise unknown("probe", name, recipe.probes)
    return {name: recipe.probes[name] for name in choice.probes or recipe.probes}


def _check_overrides(overrides: Sequence[str]) -> None:
    for text in overrides:
        section = text.partition("=")[0].strip().partition(".")[0]
        if section not in OVERRIDDEN:
            raise UserError(
                f"override {text!r}: an evaluation takes overrides of {', '.join(OVERRIDDEN)}; "
                "others would make another model than the run's"
            )
