"""Weights to a run's folder: find the format, make the recipe, load strictly, write a checkpoint.

What is unusual: a file that holds only an encoder becomes a run of only an encoder (no masker, no
predictor, no second encoder), which `eval`, `report` and `export` take. With a recipe the encoder goes into
that recipe's model, whose predictor is drawn from the seed, and a note says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core import plugins
from jepa_core.assembly import build_model
from jepa_core.errors import UserError, suggest_name
from jepa_core.formats.base import Format, Preprocessing, Weights, image_preprocessing
from jepa_core.formats.weight_file import Source, check_depth, misfits, nonfinite_notes
from jepa_core.jepa import JEPA
from jepa_core.recipes.load import read, with_overrides
from jepa_core.recipes.resolve import resolve
from jepa_core.runs import checkpoints
from jepa_core.runs.events_file import record
from jepa_core.runs.fields_file import write_fields
from jepa_core.runs.folder import RECIPE, remove_run_files
from jepa_core.settings.recipe import Recipe

log = logging.getLogger("jepa")

ALONE: Mapping[str, Any] = {
    "data": {"name": "cifar10"},
    "masker": {"name": "none"},
    "predictor": {"name": "none"},
    "target_update": {"name": "none"},
}
"""The recipe around an encoder of which nothing else is known."""


@dataclass(frozen=True)
class Imported:
    """A run that was made of somebody's weights."""

    folder: Path
    recipe: Recipe
    format: str
    preprocessing: Preprocessing | None
    """How its images are prepared; None for an encoder of something else."""
    notes: tuple[str, ...]
    """What was left out, or taken for granted."""


def import_run(
    name: str,
    folder: Path | None = None,
    *,
    format: str | None = None,
    recipe: str | None = None,
    overrides: tuple[str, ...] | list[str] = (),
    overwrite: bool = False,
) -> Imported:
    """Makes a run's folder (by default `runs/import-NAME`) of a file, a folder or a model's name.

    `format` names the format where it is not to be detected; `recipe` is what the encoder goes into, and
    `overrides` are `section.key=value`. Raises UserError for what cannot be read, does not fit wholly, or
    names a format, recipe or folder that cannot be used; nothing is written then.
    """
    source = Source(name)
    chosen = find_format(source, format)
    settings = with_overrides({}, overrides).get("encoder", {})
    weights = read_weights(build_format(chosen), chosen, source, settings)
    resolved = resolve(with_overrides(_recipe_table(weights, recipe, source), overrides))
    folder = folder or Path("runs") / f"import-{stem(source)}"
    _check_free(folder, overwrite)
    model = build_model(resolved, weights.fields if recipe is None else None)
    notes = [*weights.notes, *load(model, weights, name)]
    if recipe is None and not any(text.startswith("data") for text in overrides):
        notes.append(f"data: {resolved.data.name}, as none was named (data.name=folder data.path=…)")
    if resolved.predictor.name == "none":
        notes.append("an encoder alone, to be looked at; to train it further, import it with --recipe")
    if any(p.requires_grad for p in model.predictor.parameters()) and "predictor" not in weights.parts:
        notes.append(f"the predictor is fresh, drawn from seed {resolved.seed}: the file has none")
    fresh = [name for name in model.encoders if f"encoders.{name}" not in weights.parts]
    if fresh:
        notes.append(f"fresh encoders, drawn from seed {resolved.seed}: {', '.join(fresh)}")
    facts = {"file": name, "format": chosen, "sha256": source.sha256(), "parts": sorted(weights.parts)}
    notes += nonfinite_notes(
        {f"{part}.{key}": t for part, held in weights.parts.items() for key, t in held.items()}
    )
    _write(folder, resolved, model)
    record(folder, "imported", 0, **facts, notes=notes)
    images = image_preprocessing(resolved, model.encoder)
    return Imported(folder, resolved, chosen, images, tuple(notes))


def read_weights(form: Format, chosen: str, source: Source, settings: Mapping[str, Any]) -> Weights:
    """What a format reads. Raises UserError for a file that is not what it expects, in whatever way."""
    try:
        weights = form.read(source, settings)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # formats are plugins, and files hold anything
        reason = " ".join(str(error).split())
        kind = type(error).__name__
        raise UserError(f"{source.name} cannot be read as {chosen}: {kind}: {reason}") from error
    for part, tensors in weights.parts.items():
        section = weights.sections.get(part, {})
        for table in (section, section.get("arguments", {})):
            check_depth(source.name, table.get("depth"), len(tensors))
    return weights


def build_format(name: str) -> Format:
    """The format of this name. Raises UserError when there is none."""
    offered = plugins.registry().catalogue("format").find(name)
    form: Format = offered(offered.Config(name=name))
    return form


def find_format(source: Source, name: str | None) -> str:
    """The format that is named, or the one that recognises the source.

    Raises UserError for an unknown name, and where no format or more than one recognises it.
    """
    catalogue = plugins.registry().catalogue("format")
    if name is not None:
        catalogue.find(name)
        return name
    if source.path is None and source.looks_like_a_path:
        raise UserError(f"no file or folder {source.name!r}")
    source.check_kind()
    known = sorted(catalogue.classes)
    matching = [name for name in known if _recognises(name, source)]
    if len(matching) > 1:
        raise UserError(f"{source.name} may be {' or '.join(matching)}; say which: --format {matching[0]}")
    if not matching and source.path is None:
        raise _no_such_model(source.name)
    if source.path is not None and not matching and (source.path / RECIPE).is_file():
        raise UserError(f"{source.name} is a run already: jepa eval and jepa export take it as it is")
    if not matching:
        raise UserError(f"{source.name} is of no known format; known: {', '.join(known)}. --format names one")
    return matching[0]


def _recognises(name: str, source: Source) -> bool:
    try:
        return build_format(name).recognises(source)
    except UserError:
        raise
    except Exception as error:  # one format that fails in any way must not hide the others
        log.warning("format %r cannot look at %s: %s", name, source.name, error)
        return False


def _no_such_model(name: str) -> UserError:
    import timm

    close = suggest_name(name, timm.list_models(module="vision_transformer"))
    return UserError(f"{name!r} is no file, no folder, and no model that timm knows.{close}")


def load(model: JEPA, weights: Weights, name: str) -> list[str]:
    """Loads every part of the weights into the model. Raises UserError, the model untouched, for a misfit.

    A single encoder is loaded as context and target encoder. Returns notes for the user.
    """
    parts, notes = dict(weights.parts), []
    if model.target_encoder is None and "target_encoder" in parts:
        raise UserError(
            f"{name} holds a target_encoder, and the recipe's model has none; set target_update.name=ema"
        )
    if model.target_encoder is not None and "target_encoder" not in parts:
        parts["target_encoder"] = parts["encoder"]
        notes.append("the file's one encoder is both context and target encoder")
    modules = {part: model.get_submodule(part) for part in parts}
    complaints = [
        f"{part}: {phrase}"
        for part, module in modules.items()
        for phrase in misfits(parts[part], module.state_dict())
    ]
    if complaints:
        raise UserError(f"{name} does not fit this model: {'; '.join(complaints)}")
    for part, module in modules.items():
        module.load_state_dict(dict(parts[part]))
    return notes


def stem(source: Source) -> str:
    """The source's name without folder and ending: `IN1K-vit.h.14-300e` of a .pth.tar."""
    name = (source.path or Path(source.name)).resolve().name
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    for ending in (".safetensors", ".pth.tar", ".pth", ".pt", ".bin"):
        name = name.removesuffix(ending)
    return name


def _recipe_table(weights: Weights, recipe: str | None, source: Source) -> dict[str, Any]:
    """The run's recipe: the sections that the file determines, over those of `recipe` or of `ALONE`."""
    if recipe is None:
        table = {**ALONE, **weights.sections}
        return {**table, "name": f"import-{stem(source)}"}
    table = read(recipe)
    own = {"encoder", "predictor"} & weights.parts.keys()
    named = {part: dict(weights.sections[part]) for part in own}
    transform = {**table.get("transform", {}), **weights.sections.get("transform", {})}
    return {**table, **named, "transform": transform}


def _check_free(folder: Path, overwrite: bool) -> None:
    if (folder / RECIPE).exists():
        if not overwrite:
            raise UserError(
                f"{str(folder)!r} holds a run already; --overwrite it, or name another with --run"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} is there and is no run; name another folder with --run")


def _write(folder: Path, recipe: Recipe, model: JEPA) -> None:
    if (folder / RECIPE).exists():
        remove_run_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.save(folder, 0, model.state_dict(), None, keep=1)
    write_fields(folder, model.fields)
    (folder / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
