"""Random batches: in which shape the first view comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_core import Field, build_model, load_recipe
from jepa_core.assembly import random_batch


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        (Field("clip", (3, 5, 16, 16)), (4, 3, 5, 16, 16)),
        (Field("image", (3, 24, 24)), (4, 3, 24, 24)),
        (Field("clip"), (4, 3, 16, 16)),
        (Field("image", (3, None, None)), (4, 3, 16, 16)),
        (Field("vector", (7,)), (4, 7)),
    ],
)
def test_the_first_view_has_the_shape_of_its_field_or_else_the_encoders(
    tiny_recipe: Path, field: Field, shape: tuple[int, ...]
) -> None:
    """A clip, for one, that the variant cuts into images for its encoder."""
    recipe = load_recipe(tiny_recipe)
    model = build_model(recipe)
    model.fields = {"views.film": field}
    batch = random_batch(recipe, model, 4)
    assert {name: tuple(view.shape) for name, view in batch.views.items()} == {"film": shape}


def test_groups_of_crops_come_in_their_own_shapes(tiny_recipe: Path) -> None:
    """Whatever the field of the view that they are made of says."""
    recipe = load_recipe(tiny_recipe, "transform.views.few.count=2", "transform.views.few.size=8")
    model = build_model(load_recipe(tiny_recipe))
    model.fields = {"views.image": Field("image", (3, 24, 24))}
    assert random_batch(recipe, model, 4).views["few"].shape == (4, 2, 3, 8, 8)
