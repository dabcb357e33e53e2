"""What a run's transforms have learned from its training split, in `transforms.json`: vocabularies, means.

With it a run can be resumed and evaluated where its training data are not; each checkpoint has its hash.
"""

from __future__ import annotations

import json
from pathlib import Path

from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.protocols import Samples
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe

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
    """Loads the run's file into its transforms; False where there is none. Raises UserError for a bad one."""
    file = folder / TRANSFORMS
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError("no table")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is damaged ({' '.join(str(error).split())[:80]})") from None
    try:
        transforms.load_state(state)
    except UserError as error:
        raise UserError(f"{str(file)!r} is not of this recipe's transforms: {error}") from None
    return True


def write_transforms(folder: Path, transforms: FieldTransforms) -> None:
    """Writes what the transforms have learned, where that is anything. Raises OSError."""
    if transforms.has_learners:
        atomic_write(folder / TRANSFORMS, json.dumps(transforms.state()))
