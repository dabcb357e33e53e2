"""A run: a folder with the resolved recipe, metrics, checkpoints and pictures, and what is live of it.

recipe.toml      the resolved recipe          metrics.jsonl   one JSON object a logged step
checkpoints/     see checkpoints.py           tensorboard/    the same metrics as events
masks.png        masks over real images       curves.png      the metrics drawn
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jepa_core import checkpoints
from jepa_core.assembly import build, build_model
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.metrics import METRICS, keep_until, read_metrics
from jepa_core.optim import TrainingStep, steps_of
from jepa_core.protocols import Samples
from jepa_core.recipes import Recipe, load_recipe

RECIPE = "recipe.toml"
OWN_FILES = (RECIPE, METRICS, "masks.png", "curves.png", "eval.json")
OWN_FOLDERS = ("checkpoints", "tensorboard")

FREE_TO_CHANGE = (
    *(f"train.{key}" for key in ("log_every", "eval_every", "checkpoint_every", "keep", "device")),
    *("name", "data.workers", "data.path", "probes"),
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


def begin(recipe: Recipe, folder: Path, resume: bool, overwrite: bool = False) -> Run:
    """A run about to take its next step: a fresh one, or where its last checkpoint stands.

    Raises UserError for a folder in use, unless it is to be overwritten, and whatever keeps the run from
    starting.
    """
    if resume:
        _check_unchanged(recipe, load_recipe(folder / RECIPE))
        checkpoint = checkpoints.latest(folder)
    else:
        _check_free(folder, overwrite)
    source = build("data", recipe.data)
    samples = source.split("train")
    model = build_model(recipe).to(pick_device(recipe.train.device))
    training = TrainingStep(model, recipe, *steps_of(recipe, len(samples)))
    torch.manual_seed(recipe.seed)  # for components that draw in their forward pass, such as dropout
    if resume:
        checkpoints.load_training(checkpoint, training)
        keep_until(folder / METRICS, training.done)
    return Run(folder, recipe, training, samples)


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
    removes nothing.
    """
    if (run.folder / RECIPE).exists():
        clear(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / RECIPE).write_text(run.recipe.to_toml(), encoding="utf-8")


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    """The recipe a run was started with, `overrides` on top. Raises UserError for a folder that is no run."""
    if not (folder / RECIPE).is_file():
        raise UserError(f"{str(folder)!r} is not a run: it holds no {RECIPE}")
    return load_recipe(folder / RECIPE, *overrides)


def open_model(folder: Path) -> tuple[Recipe, JEPA, int]:
    """A run's recipe, its model with the newest checkpoint's weights, and that checkpoint's step."""
    recipe = recipe_of(folder)
    model = build_model(recipe)
    checkpoint = checkpoints.latest(folder)
    checkpoints.load_weights(checkpoint, model)
    return recipe, model.to(pick_device(recipe.train.device)).eval(), int(checkpoint.name.split("-")[1])


def clear(folder: Path) -> None:
    """Removes a run's own files from its folder, and nothing else."""
    for name in OWN_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in OWN_FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def pick_device(name: str) -> torch.device:
    """The device a setting names. Raises UserError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"setting 'train.device' is {name!r}; expected auto, cpu, cuda or cuda:<number>"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"setting 'train.device' is {name!r}, but torch {torch.__version__} sees no GPU here")
    return device


def _check_unchanged(asked: Recipe, written: Recipe) -> None:
    new, old = flat(asked.to_table()), flat(written.to_table())
    changed = sorted(
        key
        for key in new.keys() | old.keys()
        if new.get(key) != old.get(key) and not f"{key}.".startswith(tuple(f"{k}." for k in FREE_TO_CHANGE))
    )
    if changed:
        listed = ", ".join(f"{key} ({old.get(key)!r} → {new.get(key)!r})" for key in changed)
        raise UserError(f"the recipe is not the run's: {listed}. Resume it unchanged, or start a new run")


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        result.update(flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return result
