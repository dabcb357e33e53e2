"""Samples with named values: what is checked of them, and what is said of those that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import Field, Sample, UserError
from jepa_core.data.named_samples import check_value, read_named, source_fields
from jepa_core.settings.base import SourceSettings
from tests.core.data.named_worlds import FIELDS, Pairs


def test_a_sample_has_its_values_by_place() -> None:
    sample = read_named(Pairs(4), 3, FIELDS)
    assert list(sample.values()) == list(FIELDS)
    assert (sample.label, sample.key) == (1, "pair-3")


def test_a_pair_is_a_sample_of_one_view() -> None:
    class Plain(Pairs):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(3, 4, 4, dtype=torch.uint8), 1

    sample = read_named(Plain(2), 0, {"views.image": Field("image")})
    assert list(sample.values()) == ["views.image"]
    assert sample.label == 1
    assert list(Sample(torch.zeros(3, 4, 4)).views) == ["image"]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"views.caption": None}, "has no views.caption; expected a text; it has views.image"),
        ({"views.caption": 7}, "views.caption is a int; expected a text"),
        (
            {"views.image": torch.zeros(3, 4)},
            "views.image is a Tensor [3, 4] of float32; expected a Pill",
        ),
        (
            {"condition.actions": torch.zeros(4, 3)},
            "actions is shape [4, 3]; expected a sequence [any, 2]",
        ),
        ({"condition.actions": torch.zeros(0, 2)}, "condition.actions is nothing (shape [0, 2])"),
        ({"condition.actions": "left"}, "condition.actions is a str; expected numbers"),
        ({"targets.state": torch.zeros(2)}, "targets.state is shape [2]; expected a vector [3]"),
        ({"side.extra": 1}, "has side.extra, which the source does not describe; known: views.image"),
    ],
)
def test_what_does_not_fit_is_one_line(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as error:
        read_named(Pairs(4, {2: changed}), 2, FIELDS)
    assert what in str(error.value)
    assert str(error.value).startswith("sample 2 (pair-2) of pairs")
    assert "\n" not in str(error.value)


def test_labels_are_classes() -> None:
    class Odd(Pairs):
        def __getitem__(self, index: int) -> Any:
            return Sample(super().__getitem__(index).views, label=9)

    with pytest.raises(UserError, match=r"sample 0 of pairs has the label 9; expected -1 \(none\), or one"):
        read_named(Odd(2), 0, {place: FIELDS[place] for place in ("views.image", "views.caption")})


@pytest.mark.parametrize(
    ("field", "good"),
    [
        (Field("vector", (2,)), np.zeros(2)),
        (Field("vector", (2,)), [1, 2]),
        (Field("ids", vocabulary=9), [1, 8]),
        (Field("audio"), torch.zeros(2, 400)),
        (Field("clip"), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)),
        (Field("image"), Image.new("L", (3, 3))),
    ],
)
def test_values_of_each_kind_are_taken(field: Field, good: Any) -> None:
    check_value(good, field, "x")


@pytest.mark.parametrize(
    ("field", "bad", "what"),
    [
        (Field("ids", vocabulary=9), [1, 9], "the id 9; expected ids from 0 to 8"),
        (Field("ids"), [-1], "the id -1; expected ids from 0 on"),
        (Field("ids"), [0.5], "float64 values; expected whole numbers"),
        (Field("vector"), torch.zeros(1, 1), r"shape \[1, 1\]; expected a vector"),
        (Field("clip"), torch.zeros(3, 8, 8, dtype=torch.uint8), "expected uint8 "),
        (Field("vector"), [True], "bool; expected numbers"),
    ],
)
def test_values_of_another_kind_are_not(field: Field, bad: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        check_value(bad, field, "x")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"image": Field("image")}, "'image': Field"),
        ({"views.image": "image"}, "expected a Field by its place"),
        ({"condition.a": Field("vector")}, "has no view"),
        ({"views.a": Field("image"), "side.a": Field("vector")}, "uses the name 'a' twice"),
        ([], "returned a list; expected a mapping"),
    ],
)
def test_a_description_that_is_none_is_one_line(fields: Any, what: str) -> None:
    class Source:
        Config = SourceSettings

        def fields(self) -> Any:
            return fields

        def split(self, name: str) -> Any: ...

    with pytest.raises(UserError, match=what):
        source_fields(Source())


def test_fields_say_their_width() -> None:
    assert Field("sequence", (None, 4)).width == 4
    assert Field("sequence", (None, 4)).is_ragged
    assert not Field("vector", (4,)).is_ragged
    with pytest.raises(ValueError, match="the width of this vector is not known"):
        _ = Field("vector").width
    with pytest.raises(ValueError, match="a field is one of image, clip"):
        Field("picture")  # type: ignore[arg-type]
