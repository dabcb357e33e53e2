"""The recipe of a fine-tuning run, made of the recipe of the run whose encoder it starts from.

Data, sizes of images, encoder and precision are the run's. The rest follows the published settings of the
I-JEPA paper (arXiv 2301.08243, appendix A.2): AdamW, cosine, 50 epochs, layer decay .75, label smoothing .1,
RandAugment; with all labels mixup .8, cutmix 1 and drop path as well. Rates were chosen on CIFAR-10's
validation split (docs/finetuning.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.assembly import build_encoder
from jepa_core.data.sources.labelled import check_task
from jepa_core.data.sources.nested import build_source
from jepa_core.errors import UserError
from jepa_core.nn.layers import number_layers
from jepa_core.protocols import Encoder
from jepa_core.recipes.load import with_overrides
from jepa_core.recipes.resolve import resolve
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runs.load import fields_of_run
from jepa_core.settings.recipe import Recipe, Table
from jepa_core.types.fields import first_view
from jepa_finetune.drop_path import has_branches
from jepa_finetune.labels import Labels

KEPT_OF_TRANSFORM = ("crop_scale", "crop_ratio", "eval_crop", "mean", "std", "interpolation")
KEPT_OF_TRAIN = ("precision", "device", "micro_batch", "compile")

FEW_LABELS: Table = {
    "optimizer": {"lr": 1e-3, "weight_decay": 0.05, "warmup_share": 0.1, "layer_decay": 0.75},
    "train": {"epochs": 50.0, "batch_size": 128, "epoch_steps": 5, "log_every": 10},
}
"""Settings for a part of the labels: no mixing, no drop path."""
ALL_LABELS: Table = {
    "variant": {"mixup": 0.8, "cutmix": 1.0, "drop_path": 0.1},
    "optimizer": {"lr": 1e-3, "weight_decay": 0.05, "warmup_share": 0.1, "layer_decay": 0.75},
    "train": {"epochs": 50.0, "batch_size": 128, "epoch_steps": 5, "log_every": 50, "checkpoint_every": 1000},
}
"""Settings for all labels."""


@dataclass(frozen=True)
class Request:
    """What is to be fine-tuned, and how."""

    run: Path
    labels: Labels
    task: str | None = None
    steps: int | None = None
    epochs: float | None = None
    overrides: Sequence[str] = ()


def finetune_recipe(request: Request) -> Recipe:
    """The recipe of the run that starts from `request.run`.

    Raises UserError for a folder that is no run, an encoder that reads neither images nor clips, data without
    labels, an unknown task, fewer labels than are asked for, and overrides that no recipe takes.
    """
    base = read_run_recipe(request.run)
    encoder = _encoder(request.run, base)
    data = _data(base, encoder, request)
    classes = build_source(data, "data").split("train").classes or ()
    if len(classes) < 2:
        raise UserError(f"the data have one class, {classes[0]!r}; a classifier tells two or more apart")
    table = _table(base, data, len(classes), request, encoder)
    return resolve(with_overrides(table, list(request.overrides)))


def from_scratch(recipe: Recipe) -> Recipe:
    """The same training of the same network from random initial weights."""
    table = recipe.to_table()
    return resolve({**table, "name": f"{recipe.name}, from scratch", "init": {}})


def _encoder(run: Path, base: Recipe) -> Encoder:
    """The run's encoder, with random weights. Raises UserError for one that reads no images or clips."""
    fields = fields_of_run(run, base)
    view = first_view(fields)
    kind = fields[f"views.{view}"].kind if view else "image"
    encoder: Encoder = build_encoder("", base.encoder, fields)
    if kind not in ("image", "clip") or len(encoder.view_shape()) not in (3, 4):
        raise UserError(
            f"the encoder {base.encoder.name!r} of {str(run)!r} reads views.{view}, a {kind}; jepa finetune "
            "takes encoders of images or clips"
        )
    return encoder


def _data(base: Recipe, encoder: Encoder, request: Request) -> Table:
    """The section `data`: the run's source, with a draw of its labels. Raises UserError for a task."""
    own = base.to_table()["data"]
    source = own["source"] if own["name"] == "labelled" else own
    task: Table = {}
    if request.task is not None:
        check_task(build_source(source, "data"), request.task)
        task = {"task": request.task, "view_shape": list(encoder.view_shape())}
    reading = {key: own[key] for key in ("workers", "max_corrupt")}
    return {"name": "labelled", "source": source, **reading, **request.labels.settings(), **task}


def _table(base: Recipe, data: Table, classes: int, request: Request, encoder: Encoder) -> Table:
    own, chosen = base.to_table(), ALL_LABELS if request.labels.are_all else FEW_LABELS
    optimizer = {"name": "adamw", **chosen["optimizer"]}
    variant = {"name": "classifier", "classes": classes, **chosen.get("variant", {})}
    if not has_layers(encoder):
        del optimizer["layer_decay"]
    if not has_branches(encoder):
        variant.pop("drop_path", None)
    train = {**{key: own["train"][key] for key in KEPT_OF_TRAIN if key in own["train"]}, **chosen["train"]}
    if request.steps is not None:
        train["steps"] = request.steps
    if request.epochs is not None:
        train["epochs"] = request.epochs
    task = f" {request.task}" if request.task else ""
    return {
        "name": f"{base.name} finetune{task} {request.labels.slug}",
        "seed": base.seed,
        "variant": variant,
        "data": data,
        "transform": _transform(_crops(own, base, request.run), request.task),
        "encoder": own["encoder"],
        "predictor": {"name": "none"},
        "masker": {"name": "none"},
        "target_update": {"name": "none"},
        "objective": {"name": "cross_entropy", "label_smoothing": 0.1},
        "optimizer": optimizer,
        "train": train,
        "kernels": own["kernels"],
        "probes": {"knn": False, "linear": {"name": "linear"}},
        "init": {"encoder": {"run": str(request.run.resolve())}},
    }


def _crops(own: Table, base: Recipe, run: Path) -> Table:
    """The settings of the first view's crops, which may be those of a transform of its own."""
    view = first_view(fields_of_run(run, base))
    crop: Table = own.get("transforms", {}).get(view, {})
    return crop if crop.get("name") == "crop" else own["transform"]


def _transform(own: Table, task: str | None) -> Table:
    """The run's crops with a flip and RandAugment; for a task neither crops nor RandAugment, which move and
    cut off what it asks for (VISSL fine-tunes CLEVR's tasks so)."""
    crops = {key: own[key] for key in KEPT_OF_TRANSFORM if key in own}
    if task is not None:
        return {**crops, "crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": 0.5}
    return {**crops, "flip": 0.5, "rand_augment": 2}


def has_layers(encoder: Any) -> bool:
    """Whether `optimizer.layer_decay` can number the encoder's layers."""
    try:
        number_layers(encoder)
    except UserError:
        return False
    return True
