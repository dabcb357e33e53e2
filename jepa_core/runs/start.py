"""Starting a run: a fresh one, or one resumed from its newest whole checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_core.assembly import build, build_model
from jepa_core.data.field_transforms.pipeline import field_transforms
from jepa_core.errors import UserError, unknown
from jepa_core.recipes.duration import steps_of
from jepa_core.runs import checkpoints
from jepa_core.runs.batches import micro_batches
from jepa_core.runs.data_hash import data_hash, same_data
from jepa_core.runs.events_file import EVENTS, read_events, record
from jepa_core.runs.fields_file import fields_to_start_with, write_fields
from jepa_core.runs.folder import RECIPE, check_files, check_free, read_run_recipe, remove_run_files
from jepa_core.runs.initial_weights import EVENT as INITIAL
from jepa_core.runs.initial_weights import (
    describe_initial_weights,
    load_initial_weights,
    read_initial_weights,
)
from jepa_core.runs.metrics_file import METRICS, keep_until, read_metrics
from jepa_core.runs.run import Run
from jepa_core.runs.settle import Budget, adopt_settled, shrink_batch, spend_hours
from jepa_core.runs.transforms_file import (
    TRANSFORMS,
    check_capturable,
    fit_transforms,
    set_view_shapes,
    write_transforms,
)
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.devices import pick_device
from jepa_core.runtime.distributed import Ranks
from jepa_core.runtime.json_lines import is_count
from jepa_core.settings.recipe import Recipe, flatten_table
from jepa_core.training.build import make_step

log = logging.getLogger("jepa.run")

FREE_TO_CHANGE = (
    *(f"train.{key}" for key in ("log_every", "eval_every", "checkpoint_every", "keep", "device")),
    *("train.on_nonfinite", "train.max_skipped", "name", "data.workers", "data.path", "probes"),
)
"""Settings, and a section, that may differ when a run is resumed: none changes what is learned."""


def start_or_resume(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    overwrite: bool = False,
    allow: Sequence[str] = (),
    ranks: Ranks | None = None,
) -> Run:
    """A run about to take its next step: a fresh one, or one resumed from its newest whole checkpoint.

    A run that was stopped before its first checkpoint goes on from its start. `allow` names settings that
    may differ from the run's. The caller holds the folder's lock. Raises UserError for a folder in use,
    unless it is to be overwritten, and whatever keeps the run from starting; nothing is written before all
    checks have passed, and then by the main process alone.
    """
    ranks = ranks or Ranks()
    checkpoint: Path | None = None
    damages: list[str] = []
    changed: list[str] = []
    if resume:
        check_files(folder)
        written = read_run_recipe(folder)
        recipe = adopt_settled(recipe, written)
        changed = _check_unchanged(recipe, written, allow)
        checkpoint, damages = ranks.run_on_main(lambda: _newest_checkpoint(folder))
    else:
        check_free(folder, overwrite)
    micro_batches(recipe, ranks)  # sizes that do not divide are an error before anything is read
    if not ranks.is_main:
        ranks.barrier()  # the main process downloads what is to be downloaded
    source = build("data", recipe.data)
    samples = source.split("train")
    weights = read_initial_weights(recipe) if checkpoint is None else []
    if ranks.is_main:
        ranks.barrier()
    transforms = field_transforms(source, recipe)
    fit_transforms(transforms, samples, folder, checkpoint is not None, ranks)
    check_capturable(recipe, transforms)
    if not resume:
        recipe = shrink_batch(recipe, len(samples))
    recipe, budget = spend_hours(recipe, samples, transforms, ranks, folder)
    steps, warmup = steps_of(recipe, len(samples))
    sections = [key.split(".")[0] for key in allow]
    if warmup > steps:
        log.warning(
            "a warm-up of %d steps in a run of %d: its peak learning rate is not reached", warmup, steps
        )
    fields = fields_to_start_with(recipe, folder if resume else None, check=not _is_in("data", sections))
    model = build_model(recipe, fields, total_steps=steps)
    initial = load_initial_weights(model, weights, recipe.to_table()["transform"])
    model.to(pick_device(recipe.train.device, ranks.local_rank))
    training = make_step(model, recipe, steps, warmup, ranks)
    set_view_shapes(transforms, model)
    model.transforms = None if transforms.plain else transforms
    run = Run(folder, recipe, training, samples, transforms, ranks.run_on_main(lambda: data_hash(samples)))
    _note_beginnings(run, initial, budget)
    if checkpoint is not None:
        _restore(run, checkpoint, allow)
    ranks.barrier()
    if resume and ranks.is_main:
        rewind_files(run, damages, changed)
    return run


def _note_beginnings(run: Run, initial: Sequence[Mapping[str, Any]], budget: Budget | None) -> None:
    """Logs what the run starts with, and puts it into its notes, from which `write_beginnings` has it."""
    for facts in initial if run.training.ranks.is_main else ():
        log.info("init.%s", describe_initial_weights(facts))
    if initial:
        run.notes[INITIAL] = list(initial)
    if budget is not None:
        run.notes["time_budget"] = budget.facts()


def write_beginnings(run: Run) -> None:
    """Writes the model that starts from weights of elsewhere as the checkpoint of step 0, and the events.

    Raises UserError where the checkpoint cannot be written.
    """
    if "time_budget" in run.notes:
        record(run.folder, "time_budget", 0, **run.notes["time_budget"])
    if INITIAL in run.notes:
        checkpoints.save(run.folder, 0, run.model.state_dict(), None, run.recipe.train.keep)
    for facts in run.notes.get(INITIAL, ()):
        record(run.folder, INITIAL, 0, **facts)


def _newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """`checkpoints.newest_good`. Raises UserError where there is none, though the run has saved one."""
    checkpoint, damages = checkpoints.newest_good(folder)
    if checkpoint is None or checkpoints.is_initial(checkpoint):
        _check_nothing_lost(folder)
    return checkpoint, damages


def _check_nothing_lost(folder: Path) -> None:
    """Raises UserError for a run without checkpoints whose other files show that it had some.

    Starting it again would remove its metrics; more likely a disk is not mounted.
    """
    place = folder / "checkpoints"
    saved = [event["step"] for event in read_events(folder) if _tells_of_a_checkpoint(event)]
    logged = [line["step"] for line in read_metrics(folder / METRICS)]
    if saved and max(saved) > 0:
        lost = f"{place} holds no checkpoint, though {EVENTS} tells of one of step {max(saved):,}"
    elif logged and not place.is_dir():
        lost = f"there is no folder {place}, though {METRICS} goes up to step {max(logged):,}"
    else:
        return
    raise UserError(
        f"{lost}: is a disk not mounted, or was it removed? Bring it back, or start the run anew with "
        "--overwrite"
    )


def _tells_of_a_checkpoint(event: Mapping[str, Any]) -> bool:
    """Whether a run that has this event has saved a checkpoint: its end and a signal save one, too."""
    why = str(event.get("why", ""))
    stopped = event["kind"] == "stopped" and (why == "finished" or why.startswith("signal"))
    return stopped or event["kind"] == "checkpoint_saved"


def state_of(run: Run) -> dict[str, Any]:
    """What a checkpoint holds besides the weights."""
    return {
        "training": run.training.state_dict(),
        "inputs": run.inputs.state_dict(),
        "images": len(run.samples),
        "data": run.data_hash,
        **({"transforms": run.transforms.hash()} if run.transforms.has_learners else {}),
    }


def _restore(run: Run, checkpoint: Path, allow: Sequence[str]) -> None:
    """Puts a checkpoint into the run, to go on as if nothing had happened.

    One of step 0 without a state is imported weights, from which training begins. Raises UserError for other
    data than the checkpoint's, and DamagedCheckpoint for a state that is not of this model's training.
    """
    if checkpoints.step_of(checkpoint) == 0 and not (checkpoint / checkpoints.STATE).exists():
        return checkpoints.load_weights(checkpoint, run.model)
    state, step = checkpoints.load_state(checkpoint), checkpoints.step_of(checkpoint)
    if not any(key.split(".")[0] == "data" for key in allow):
        _check_same_data(run, state)
    if state.get("transforms", "") != run.transforms.hash():
        raise UserError(
            f"what the transforms of {', '.join(run.transforms.state())} have learned (vocabulary, mean) is "
            f"not the run's: {TRANSFORMS} was changed, or is lost and the data are others"
        )
    checkpoints.load_weights(checkpoint, run.model)
    try:
        run.training.load_state_dict(_part(state, "training"))
        run.inputs.load_state_dict(_part(state, "inputs"))
        if run.step != step:
            raise UserError(f"it is of step {run.step:,}, and the checkpoint of step {step:,}")
    except UserError as error:
        path = checkpoint / checkpoints.STATE
        raise checkpoints.DamagedCheckpoint(f"{path} is not this run's state: {error}") from None


def _part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One entry of a state, which is a dictionary itself. Raises UserError for anything else."""
    if not isinstance(state.get(name), dict):
        raise UserError(f"its entry {name!r} is {state.get(name)!r:.40}; expected a dictionary")
    part: dict[str, Any] = state[name]
    return part


def _check_same_data(run: Run, state: Mapping[str, Any]) -> None:
    """Raises UserError for another training split. States of old have a count of images and no hash."""
    count, written = state.get("images"), state.get("data", "")
    if count != len(run.samples):
        before = f"{count:,}" if is_count(count) else repr(count)[:40]
        raise UserError(
            f"the training split has {len(run.samples):,} images, but {before} when the run "
            f"began; give it the same data, or --allow-change data"
        )
    if not same_data(run.data_hash, str(written)):
        raise UserError(
            f"the training split has {count:,} images as when the run began, but others (their names, sizes "
            "or contents differ); give it the same data, or --allow-change data"
        )


def rewind_files(run: Run, damages: list[str], changed: list[str]) -> None:
    """Makes the folder's files what they were at the step where the run goes on."""
    (run.folder / "checkpoints").mkdir(exist_ok=True)
    checkpoints.set_aside(run.folder, run.step)
    keep_until(run.folder / METRICS, run.step)
    for damage in damages:
        record(run.folder, "checkpoint_damaged", run.step, what=damage)
        run.notes.setdefault("damaged", []).append(damage)
    if changed:
        record(run.folder, "recipe_changed", run.step, what=changed)
    atomic_write(run.folder / RECIPE, run.recipe.to_toml())
    write_beginnings(run)


def make_folder(run: Run) -> None:
    """Writes the recipe into the run's folder, in place of an earlier run.

    The last thing before the first step, so that a run that cannot start leaves nothing behind and
    removes nothing. Raises UserError where the folder cannot be written.
    """
    try:
        if (run.folder / RECIPE).exists():
            remove_run_files(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(run.folder / RECIPE, run.recipe.to_toml())  # first: with it the folder is a run
        write_fields(run.folder, run.model.fields)
        write_transforms(run.folder, run.transforms)
        (run.folder / "checkpoints").mkdir(exist_ok=True)  # its absence tells of a lost disk later
        write_beginnings(run)
    except OSError as error:
        raise UserError(f"the run's folder {str(run.folder)!r} cannot be written: {error.strerror}") from None


def _check_unchanged(asked: Recipe, written: Recipe, allow: Sequence[str]) -> list[str]:
    """The settings that differ, as text. Raises UserError for one that is neither free nor allowed."""
    new, old = flatten_table(asked.to_table()), flatten_table(written.to_table())
    changed = {
        key: f"{key} ({_format(old.get(key))} → {_format(new.get(key))})"
        for key in sorted(new.keys() | old.keys())
        if new.get(key) != old.get(key)
    }
    refused = [text for key, text in changed.items() if not _is_in(key, (*FREE_TO_CHANGE, *allow))]
    if refused:
        raise UserError(
            f"the recipe is not the run's: {', '.join(refused)}. Resume it unchanged, start a new run, or "
            "name what may change with --allow-change"
        )
    for key in allow:
        if not any(_is_in(setting, (key,)) for setting in new.keys() | old.keys()):
            raise unknown("setting", key, new)
    return list(changed.values())


def _is_in(key: str, settings: Sequence[str]) -> bool:
    """Whether a setting is one of these, or stands in a section that is."""
    return any(f"{key}.".startswith(f"{setting}.") for setting in settings)


def _format(value: Any) -> str:
    return "none" if value is None else repr(value)
