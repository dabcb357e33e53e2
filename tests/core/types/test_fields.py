"""Fields as a whole: names by part, their form in a file, random values of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from jepa_core import Field, Packed, UserError
from jepa_core.types.fields import fields_from_table, fields_to_table, first_view, names_of
from jepa_core.types.random_value import random_value

FIELDS = {
    "condition.actions": Field("sequence", (None, 3), units="m/s", names=("x", "y", "z"), rate=5.0),
    "views.clip": Field("clip", (3, 4, 16, 16)),
    "views.caption": Field("ids", (None,), vocabulary=300),
    "targets.state": Field("vector", (2,)),
}


def test_names_and_the_first_view() -> None:
    assert names_of(FIELDS, "views") == ["clip", "caption"]
    assert first_view(FIELDS) == "clip"
    assert first_view({"side.heat": Field("vector", (2,))}) is None


def test_a_file_gives_back_what_was_written() -> None:
    table = json.loads(json.dumps(fields_to_table(FIELDS)))
    assert table["targets.state"] == {"kind": "vector", "shape": [2]}
    assert fields_from_table(table) == FIELDS
    assert list(fields_from_table(table)) == list(FIELDS), "the first view stays the first"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (3, "fields are a table by places; got a int"),
        ({"image": {"kind": "image"}}, "a field stands at PART.NAME, PART one of views, "),
        ({"views.x": ["image"]}, "the field views.x is ['image']; expected a table with a kind"),
        ({"views.x": {"kind": "smell"}}, "the field views.x: kind is 'smell'; expected one of image, clip"),
        ({"views.x": {"kind": "ids", "shape": [0]}}, "shape is [0]; expected a list of sizes"),
        ({"views.x": {"kind": "ids", "vocabulary": True}}, "vocabulary is True; expected a whole number"),
        ({"views.x": {"kind": "ids", "colour": 1}}, "has an entry 'colour'; known: kind, shape, "),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(table: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        fields_from_table(table)


def test_random_values_have_the_shapes_of_the_field_and_follow_from_the_generator() -> None:
    def draw(name: str) -> Any:
        return random_value(FIELDS[name], 4, torch.Generator().manual_seed(1))

    assert draw("views.clip").shape == (4, 3, 4, 16, 16)
    caption, actions = draw("views.caption"), draw("condition.actions")
    assert isinstance(caption, Packed)
    assert caption.batch_size == actions.batch_size == 4
    assert caption.values.dtype == torch.int64
    assert set(caption.values.tolist()) <= set(range(300))
    assert actions.values.shape == (int(actions.at.lengths.sum()), 3)
    assert torch.equal(draw("views.caption").values, caption.values)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (Field("text"), "a text is no tensor: give it a transform"),
        (Field("image"), r"this field \(image\) does not say its shape"),
        (Field("image", (3, None, None)), r"a random image needs a whole shape; this field's is \(3, None"),
        (Field("ids", (5,)), "do not say their vocabulary"),
    ],
)
def test_fields_without_random_values(field: Field, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        random_value(field, 2)
