"""The values of a run's samples, and what their transforms have learned from its training split, in
`transforms.json`: vocabularies, means.

With it a run can be resumed and evaluated where its training data are not; each checkpoint has its hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.protocols import Samples
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe
from jepa_core.types.fields import fields_from_table, fields_to_table, first_view
from jepa_core.types.sample import Fields

TRANSFORMS = "transforms.json"


def set_view_shapes(transforms: FieldTransforms, model: JEPA) -> None:
    """Gives the transforms the shapes of the views that the model's encoders ask for."""
    named = {name: tuple(encoder.view_shape()) for name, encoder in model.encoders.items()}
    transforms.set_view_shapes({"": tuple(model.encoder.view_shape()), **named})


def fit_transforms(
    transforms: FieldTransforms, samples: Samples, folder: Path, resume: bool, ranks: Ranks
) -> None:
    """Fits the transforms to the training split, or takes over what the run's own have learned.

    The main process does it for all. Raises UserError for a file that is damaged or of other transforms.
    """

    def learn() -> dict[str, object]:
        if not (resume and read_transforms(folder, transforms)):
            transforms.fit(samples)
        return transforms.state()

    if transforms.has_learners:
        transforms.load_state(ranks.run_on_main(learn))


def check_capturable(recipe: Recipe, transforms: FieldTransforms) -> None:
    """Raises UserError for values of different lengths in a step that is to be recorded in a CUDA graph."""
    if recipe.train.cuda_graph and transforms.ragged:
        raise UserError(
            f"train.cuda_graph carries values of fixed shape alone; {', '.join(transforms.ragged)} differ "
            "in length from sample to sample; set train.cuda_graph=false"
        )


def read_transforms(folder: Path, transforms: FieldTransforms) -> bool:
    """Gives transforms what the run's have learned; False where the run has none. Raises UserError for a file
    that is damaged or of other transforms."""
    written = _read(folder / TRANSFORMS)
    if written is None:
        return False
    try:
        transforms.load_state(written[1])
    except UserError as error:
        raise UserError(f"{str(folder / TRANSFORMS)!r} is not of this recipe's transforms: {error}") from None
    return True


def open_transforms(folder: Path, recipe: Recipe, model: JEPA) -> FieldTransforms | None:
    """A run's transforms, without its data; None where its samples are images or clips alone.

    Raises UserError as `read_transforms`.
    """
    written = _read(folder / TRANSFORMS)
    if written is None:
        return None
    if first_view(written[0]) is None:
        raise UserError(f"{str(folder / TRANSFORMS)!r} is damaged (its entry 'fields' has no view)")
    transforms = FieldTransforms(written[0], recipe.transforms, recipe.transform)
    read_transforms(folder, transforms)
    set_view_shapes(transforms, model)
    return transforms


def _read(file: Path) -> tuple[Fields, dict[str, Any]] | None:
    """(fields of the source, what was learned of them)."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        fields, learned = fields_from_table(table["fields"]), table["learned"]
        if not isinstance(learned, dict):
            raise ValueError("its entry 'learned' is no table")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}") from None
    except KeyError as error:
        raise UserError(f"{str(file)!r} is damaged (it has no entry {error})") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is damaged ({' '.join(str(error).split())[:80]})") from None
    return fields, learned


def write_transforms(folder: Path, transforms: FieldTransforms) -> None:
    """Writes what the values of the run's samples are, and what its transforms have learned of them.

    Nothing where they are images or clips alone. Raises OSError.
    """
    if not transforms.plain:
        table = {"fields": fields_to_table(transforms.fields), "learned": transforms.state()}
        atomic_write(folder / TRANSFORMS, json.dumps(table))
