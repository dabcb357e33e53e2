"""The weights that a recipe's `[init.PART]` tables name: read, checked, put into a model when a run starts.

What is unusual: `build_model` never loads them, so that the random twin of an evaluation stays random. A run
keeps the model as it started as its checkpoint of step 0, so that its folder is enough from then on, whatever
becomes of the source; the row `initial weights` of an evaluation is made of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jepa_core.errors import UserError, unknown
from jepa_core.formats.hub import find_source
from jepa_core.formats.importing import build_format, find_format, read_weights
from jepa_core.formats.weight_file import Source, misfits, nonfinite_notes
from jepa_core.jepa import JEPA
from jepa_core.nn.parts import find_part, holds_part, is_encoder, target_of
from jepa_core.runs import checkpoints
from jepa_core.runs.folder import read_run_recipe
from jepa_core.settings.describe import toml
from jepa_core.settings.initial import WHOLE, InitSettings
from jepa_core.settings.recipe import Recipe, Table

log = logging.getLogger("jepa.run")

EVENT = "initial_weights"
"""Kind of the event of each part."""

IMAGES = ("mean", "std")
"""Settings of the section `transform` that weights depend on."""


@dataclass(frozen=True)
class StoredWeights:
    """What a run, a file or a library holds."""

    words: str
    """Which weights these are, for people."""
    path: str
    """Of the file with the tensors; the name where there is no file."""
    sha256: str | None
    """Of that file."""
    tensors: Mapping[str, Tensor]
    """By name, the part of the model first: `encoder.norm.weight`."""
    sections: Mapping[str, Any]
    """Sections of a recipe that they come with."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartWeights:
    """The weights that a part starts with."""

    part: str
    """Its module path, or `model`."""
    settings: InitSettings
    stored: StoredWeights
    stored_part: str
    """The part of the source that they are taken from."""
    section: Mapping[str, Any]
    """The part's own settings in the recipe."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By the part's own names."""
        return _inside(self.stored.tensors, self.stored_part)

    def differing_settings(self) -> list[str]:
        """`encoder.heads=6` for each setting that the source has with another value."""
        theirs = _table_of(self.stored.sections, self.stored_part)
        return [
            f"{self.part}.{key}={toml(value)}"
            for key, value in theirs.items()
            if self.section.get(key, value) != value
        ]


def read_initial_weights(recipe: Recipe) -> list[PartWeights]:
    """What the recipe's `[init.PART]` tables name, the whole model first.

    Raises UserError, which begins with the table, for what is not there, cannot be read, or lacks the part.
    """
    stored: dict[tuple[Any, ...], StoredWeights] = {}
    parts = []
    for part in sorted(recipe.init, key=lambda part: part != WHOLE):
        settings = recipe.init[part]
        section = _table_of(recipe.to_table(), part.removeprefix("target_"))
        try:
            key = (*settings.origins, settings.format)
            if key not in stored:
                stored[key] = _read(settings, section)
            chosen = _choose_part(part, settings, stored[key])
        except UserError as error:
            raise UserError(f"init.{part}: {error}") from None
        parts.append(PartWeights(part, settings, stored[key], chosen, section))
    return parts


def _read(settings: InitSettings, section: Table) -> StoredWeights:
    if settings.run is not None:
        return _read_run(Path(settings.run))
    if settings.source is not None:
        source, form = find_source(settings.source)
        return _read_source(source, settings.format or form, section, settings.source)
    name = str(settings.file)
    if not Path(name).exists():
        raise UserError(f"no file or folder {name!r}")
    return _read_source(Source(name), settings.format, section, name)


def _read_run(folder: Path) -> StoredWeights:
    recipe = read_run_recipe(folder)
    checkpoint, damages = checkpoints.latest_checkpoint(folder)
    for damage in damages:
        log.warning("damaged checkpoint passed over: %s", damage)
    source = Source(str(checkpoint / checkpoints.WEIGHTS))
    words = f"run {folder} ({recipe.name}, step {checkpoints.step_of(checkpoint):,})"
    return StoredWeights(words, source.name, source.sha256(), source.content, recipe.to_table())


def _read_source(source: Source, form: str | None, section: Table, name: str) -> StoredWeights:
    chosen = find_format(source, form)
    weights = read_weights(build_format(chosen), chosen, source, section)
    tensors = {f"{part}.{key}": t for part, held in weights.parts.items() for key, t in held.items()}
    path = str(source.file) if source.file is not None else name
    return StoredWeights(
        f"{name} (read as {chosen})", path, source.sha256(), tensors, weights.sections, weights.notes
    )


def _choose_part(part: str, settings: InitSettings, stored: StoredWeights) -> str:
    """The part of the source for a part of the model. Raises UserError where it has none."""
    if part == WHOLE:
        return WHOLE
    online = part.removeprefix("target_")
    wanted = [online, "encoder"] if is_encoder(online) else [online]
    if settings.role == "target":
        wanted = [path for name in wanted for path in (target_of(name), name) if path is not None]
    for path in wanted:
        if _inside(stored.tensors, path):
            return path
    known = dict.fromkeys(name.split(".")[0] for name in stored.tensors)
    raise unknown(f"part of {stored.words}", online, known)


def _inside(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of a part, by the names that they have in it."""
    if part == WHOLE:
        return dict(tensors)
    start = f"{part}."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def _table_of(sections: Mapping[str, Any], path: str) -> Table:
    """The settings of a part in a recipe's table; empty where it has none of its own."""
    level: Any = sections
    for name in path.removeprefix("target_").split("."):
        level = level.get(name) if isinstance(level, Mapping) else None
    return dict(level) if isinstance(level, Mapping) else {}


def load_initial_weights(model: JEPA, weights: list[PartWeights], transform: Table) -> list[dict[str, Any]]:
    """Puts the weights into the model; a facts table for each part, for the run's events and notes.

    An encoder's weights are its target encoder's too, unless that has a table of its own. `transform` is the
    recipe's section. Raises UserError, which names tensors, where they do not fit.
    """
    named = {loaded.part for loaded in weights}
    facts = []
    for loaded in weights:
        places = [loaded.part]
        target = target_of(loaded.part)
        if target is not None and target not in named and holds_part(model, target):
            places.append(target)
        notes = [note for place in places for note in _fit(find_part(model, place), place, loaded)]
        notes = [*dict.fromkeys(notes), *_other_settings(loaded, transform), *loaded.stored.notes]
        notes += nonfinite_notes(loaded.tensors)
        facts.append(_facts(loaded, places, notes))
    return facts


def _fit(module: nn.Module, place: str, loaded: PartWeights) -> list[str]:
    """Loads one part; what stays as it is, where that is allowed. Raises UserError for a misfit."""
    expected, tensors = module.state_dict(), loaded.tensors
    complaints = misfits(tensors, expected)
    if complaints and loaded.settings.strict:
        hint = ", ".join(loaded.differing_settings())
        more = f". It was made with {hint}" if hint else ""
        raise UserError(
            f"init.{loaded.part}: {loaded.stored.words} does not fit {place}: {'; '.join(complaints)}{more}"
        )
    fitting = {
        name: t
        for name, t in tensors.items()
        if name in expected and not misfits({name: t}, {name: expected[name]})
    }
    if not fitting and expected:
        raise UserError(
            f"init.{loaded.part}: no tensor of {loaded.stored.words} fits {place}: {'; '.join(complaints)}"
        )
    module.load_state_dict(fitting, strict=False)
    return [f"{len(fitting)} of {len(expected)} tensors: {'; '.join(complaints)}"] if complaints else []


def _other_settings(loaded: PartWeights, transform: Table) -> list[str]:
    """Sentences on settings that the source has otherwise, though its tensors fit."""
    notes = []
    if differing := loaded.differing_settings():
        notes.append(f"made with {', '.join(differing)}")
    theirs = _table_of(loaded.stored.sections, "transform")
    images = [
        f"transform.{key}={toml(theirs[key])}"
        for key in IMAGES
        if key in theirs and list(theirs[key]) != list(transform[key])
    ]
    return [*notes, *([f"its images had {', '.join(images)}"] if images else [])]


def _facts(loaded: PartWeights, places: list[str], notes: list[str]) -> dict[str, Any]:
    return {
        "part": loaded.part,
        "origin": loaded.stored.words,
        "taken_from": loaded.stored_part,
        "loaded_into": places,
        "file": loaded.stored.path,
        "sha256": loaded.stored.sha256,
        "tensors": len(loaded.tensors),
        "frozen": loaded.settings.frozen,
        "notes": notes,
    }


def describe_initial_weights(facts: Mapping[str, Any]) -> str:
    """A line on one part: `encoder, target_encoder: target_encoder of run runs/x (…); SHA-256 1a2b…`."""
    digest = facts.get("sha256")
    parts = [
        f"{', '.join(facts['loaded_into'])}: {facts['taken_from']} of {facts['origin']}",
        f"SHA-256 {digest[:12]}…" if digest else "",
        "frozen" if facts.get("frozen") else "",
        *facts.get("notes", ()),
    ]
    return "; ".join(filter(None, parts))
