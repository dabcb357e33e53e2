"""A run: a folder with the resolved recipe, metrics, checkpoints and pictures, and what is live of it.

recipe.toml      the resolved recipe          metrics.jsonl   one JSON object a logged step
checkpoints/     see checkpoints.py           events.jsonl    starts, stops, alarms (journal.py)
masks.png        masks over real images       curves.png      the metrics drawn
tensorboard/     the metrics as events        corrupt_files.tsv   inputs that were passed over
pictures/        what plugins draw at the end
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepa_core import checkpoints
from jepa_core.assembly import build, build_model
from jepa_core.corrupt import CORRUPT_FILES, InputCounts
from jepa_core.devices import pick_device, usable_device
from jepa_core.errors import UserError, unknown
from jepa_core.jepa import JEPA
from jepa_core.journal import EVENTS, record
from jepa_core.metrics import METRICS, keep_until, read_metrics, replace_file
from jepa_core.optim import TrainingStep, make_step, steps_of
from jepa_core.protocols import Samples
from jepa_core.ranks import Ranks
from jepa_core.recipes import Recipe, load_recipe

log = logging.getLogger("jepa.run")

RECIPE = "recipe.toml"
OWN_FILES = (
    *(RECIPE, METRICS, EVENTS, CORRUPT_FILES, "masks.png", "curves.png", "eval.json"),
    "report.html",
)
OWN_FOLDERS = ("checkpoints", "tensorboard", "report", "pictures")

FREE_TO_CHANGE = (
    *(f"train.{key}" for key in ("log_every", "eval_every", "checkpoint_every", "keep", "device")),
    *("train.on_nonfinite", "train.max_skipped", "name", "data.workers", "data.path", "probes"),
)
"""Settings, and a section, that may differ when a run is resumed: none changes what is learned."""


@dataclass
class Run:
    """One training run. Observers read it; only the loop writes it."""

    folder: Path
    recipe: Recipe
    training: TrainingStep
    samples: Samples
    """The training split."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What observers leave for whoever looks at the run afterwards, such as `alarms`."""

    inputs: InputCounts = field(init=False)
    """What was passed over, or found unusual, in the data."""

    def __post_init__(self) -> None:
        self.inputs = InputCounts(self.folder)

    @property
    def model(self) -> JEPA:
        """The model in training."""
        return self.training.model

    @property
    def step(self) -> int:
        """Optimizer steps done so far."""
        return self.training.done

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.training.total_steps

    def metrics(self) -> list[dict[str, Any]]:
        """What has been logged, a dictionary a line, oldest first."""
        return read_metrics(self.folder / METRICS)


def begin(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    overwrite: bool = False,
    allow: Sequence[str] = (),
    ranks: Ranks | None = None,
) -> Run:
    """A run about to take its next step: a fresh one, or where its newest whole checkpoint stands.

    A run that was stopped before its first checkpoint goes on from its start. `allow` names settings that
    may differ from the run's. Raises UserError for a folder in use, unless it is to be overwritten, and
    whatever keeps the run from starting; nothing is written before all is well, and then by the main
    process alone.
    """
    ranks = ranks or Ranks()
    checkpoint: Path | None = None
    damages: list[str] = []
    changed: list[str] = []
    if resume:
        changed = _check_unchanged(recipe, recipe_of(folder), allow)
        checkpoint, damages = checkpoints.newest_good(folder)
    else:
        _check_free(folder, overwrite)
    if not ranks.main:
        ranks.wait()  # the main process downloads what is to be downloaded
    samples = build("data", recipe.data).split("train")
    if ranks.main:
        ranks.wait()
    model = build_model(recipe).to(pick_device(recipe.train.device, ranks.local))
    steps, warmup = steps_of(recipe, len(samples))
    if warmup > steps:
        log.warning(
            "a warm-up of %d steps in a run of %d: its peak learning rate is not reached", warmup, steps
        )
    training = make_step(model, recipe, steps, warmup, ranks)
    run = Run(folder, recipe, training, samples)
    if checkpoint is not None:
        _restore(run, checkpoint, allow)
    ranks.wait()
    if resume and ranks.main:
        _take_up(run, damages, changed)
    return run


def state_of(run: Run) -> dict[str, Any]:
    """What a checkpoint holds besides the weights."""
    return {
        "training": run.training.state_dict(),
        "inputs": run.inputs.state_dict(),
        "images": len(run.samples),
    }


def _restore(run: Run, checkpoint: Path, allow: Sequence[str]) -> None:
    """Puts a checkpoint into the run, to go on as if nothing had happened.

    One of step 0 without a state is imported weights, from which training begins.
    """
    if checkpoints.step_of(checkpoint) == 0 and not (checkpoint / checkpoints.STATE).exists():
        return checkpoints.load_weights(checkpoint, run.model)
    state = checkpoints.load_state(checkpoint)
    if state["images"] != len(run.samples) and not any(key.split(".")[0] == "data" for key in allow):
        raise UserError(
            f"the training split has {len(run.samples):,} images, but {state['images']:,} when the run "
            f"began; give it the same data, or --allow-change data"
        )
    checkpoints.load_weights(checkpoint, run.model)
    run.training.load_state_dict(state["training"])
    run.inputs.load_state_dict(state["inputs"])


def _take_up(run: Run, damages: list[str], changed: list[str]) -> None:
    """Makes the folder's files what they were at the step where the run goes on."""
    checkpoints.set_aside(run.folder, run.step)
    keep_until(run.folder / METRICS, run.step)
    for damage in damages:
        record(run.folder, "checkpoint_damaged", run.step, what=damage)
        run.notes.setdefault("damaged", []).append(damage)
    if changed:
        record(run.folder, "recipe_changed", run.step, what=changed)
    replace_file(run.folder / RECIPE, run.recipe.to_toml())


def _check_free(folder: Path, overwrite: bool) -> None:
    """Other files may lie in the folder, but nothing that a run would mix with its own."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the run's folder {str(folder)!r} is a file; name another")
    if (folder / RECIPE).exists():
        if not overwrite:
            raise UserError(
                f"{str(folder)!r} holds a run already; resume it, overwrite it, or name another folder"
            )
        return
    taken = [name for name in (*OWN_FILES, *OWN_FOLDERS) if (folder / name).exists()]
    if taken:
        raise UserError(
            f"{str(folder)!r} is not a run (it holds no {RECIPE}), but has {', '.join(taken)}, which a run "
            "would write to; name another folder"
        )


def make_folder(run: Run) -> None:
    """Writes the recipe into the run's folder, in place of an earlier run.

    The last thing before the first step, so that a run that cannot start leaves nothing behind and
    removes nothing. Raises UserError where the folder cannot be written.
    """
    try:
        if (run.folder / RECIPE).exists():
            clear(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        replace_file(run.folder / RECIPE, run.recipe.to_toml())
    except OSError as error:
        raise UserError(f"the run's folder {str(run.folder)!r} cannot be written: {error.strerror}") from None


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    """The recipe a run was started with, `overrides` on top. Raises UserError for a folder that is no run."""
    if not (folder / RECIPE).is_file():
        raise UserError(f"{str(folder)!r} is not a run: it holds no {RECIPE}")
    return load_recipe(folder / RECIPE, *overrides)


def open_model(folder: Path) -> tuple[Recipe, JEPA, int]:
    """A run's recipe, its model with the newest whole checkpoint's weights, and that checkpoint's step.

    What is wrong with newer ones is logged as a warning.
    """
    recipe = recipe_of(folder)
    model = build_model(recipe)
    checkpoint, damages = checkpoints.latest(folder)
    for damage in damages:
        log.warning("damaged checkpoint passed over: %s", damage)
    checkpoints.load_weights(checkpoint, model)
    return recipe, model.to(usable_device(recipe.train.device)).eval(), checkpoints.step_of(checkpoint)


def clear(folder: Path) -> None:
    """Removes a run's own files from its folder, and nothing else; the recipe, which makes it a run, last."""
    for name in OWN_FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    for name in reversed(OWN_FILES):
        (folder / name).unlink(missing_ok=True)


def _check_unchanged(asked: Recipe, written: Recipe, allow: Sequence[str]) -> list[str]:
    """The settings that differ, as text. Raises UserError for one that is neither free nor allowed."""
    new, old = flat(asked.to_table()), flat(written.to_table())
    changed = {
        key: f"{key} ({_shown(old.get(key))} → {_shown(new.get(key))})"
        for key in sorted(new.keys() | old.keys())
        if new.get(key) != old.get(key)
    }
    refused = [text for key, text in changed.items() if not _within(key, (*FREE_TO_CHANGE, *allow))]
    if refused:
        raise UserError(
            f"the recipe is not the run's: {', '.join(refused)}. Resume it unchanged, start a new run, or "
            "name what may change with --allow-change"
        )
    for key in allow:
        if not any(_within(setting, (key,)) for setting in new.keys() | old.keys()):
            raise unknown("setting", key, new)
    return list(changed.values())


def _within(key: str, settings: Sequence[str]) -> bool:
    """Whether a setting is one of these, or stands in a section that is."""
    return any(f"{key}.".startswith(f"{setting}.") for setting in settings)


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        result.update(flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return result
