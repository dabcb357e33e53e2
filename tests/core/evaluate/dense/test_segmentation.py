"""The evaluation `segmentation` on squares before a slope, and what it says to data that it cannot use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_core import Field, UserError
from jepa_core.evaluate.dense.segmentation import Segmentation
from jepa_core.evaluate.score_tables import EvaluationTable
from tests.core.evaluate.dense.conftest import MakeContext
from tests.core.evaluate.dense.made_maps import FIELDS, SquaresSource


def segmentation(context: Any, **settings: Any) -> list[EvaluationTable]:
    return Segmentation(Segmentation.Config(**settings))(context)


def test_rows_and_scores(context_on: MakeContext) -> None:
    (table,) = segmentation(context_on())
    assert [row.name for row in table.rows] == [
        "trained",
        "random twin",
        "raw patch pixels",
        "position only",
        "commonest class",
    ]
    assert list(table.own) == ["miou", "accuracy", "miou_patches", "accuracy_patches"]
    scores = {row.name: row.scores for row in table.rows}
    ground = scores["commonest class"]
    assert ground["accuracy"].value == pytest.approx(220 / 256), "36 of 256 pixels are a square"
    assert ground["miou"].value == pytest.approx(220 / 256 / 3)
    assert scores["raw patch pixels"]["accuracy_patches"].value > 0.97, "bright and dark are easy"
    assert scores["trained"]["accuracy"].value > ground["accuracy"].value
    assert table.own["accuracy"].chance == ground["accuracy"].value
    assert "commonest class of 3, on 768 tokens of 48 training images" in table.note


def test_tokens_are_drawn_where_there_are_too_many(context_on: MakeContext) -> None:
    (table,) = segmentation(context_on(), tokens=300)
    drawn = int(table.note.partition(" tokens of")[0].rpartition(" ")[2])
    assert 200 < drawn < 400
    assert segmentation(context_on(), tokens=300)[0] == table, "with a seed"


def ignored(values: dict[str, Any]) -> dict[str, Any]:
    kinds = values["kind"].clone()
    kinds[0], kinds[1] = 255, -1
    return {"kind": kinds}


def test_ignored_pixels_are_not_counted(context_on: MakeContext) -> None:
    both = {"train": ignored, "test": ignored}
    (table,) = segmentation(context_on(SquaresSource(change=both)))
    squares = 0
    for index in range(20):
        squares += int((SquaresSource().split("test")[index].targets["kind"][2:] > 0).sum())
    ground = table.rows[-1].scores["accuracy"].value
    assert ground == pytest.approx(1 - squares / (20 * 14 * 16))


def test_maps_that_name_their_classes_go_before_numbers(context_on: MakeContext) -> None:
    fields = {**FIELDS, "targets.ids": Field("map", vocabulary=9)}
    ids = {name: lambda values: {"ids": values["kind"]} for name in ("train", "test")}
    source = SquaresSource(change=ids, fields=fields)
    assert [table.task for table in segmentation(context_on(source))] == [None]
    unnamed = {**fields, "targets.kind": Field("map", vocabulary=3)}
    tables = segmentation(context_on(SquaresSource(change=ids, fields=unnamed)))
    assert [table.task for table in tables] == ["kind", "ids"]


def all_ignored(values: dict[str, Any]) -> dict[str, Any]:
    return {"kind": torch.full((16, 16), -1)}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            SquaresSource(change={"train": lambda values: {"kind": values["kind"] + 2}}),
            "targets.kind holds the class 4; expected 0 to 2, or 255 or a negative number for none",
        ),
        (
            SquaresSource(change={"train": all_ignored}),
            "targets.kind of the training split has no class: all of its pixels are ignored",
        ),
        (
            SquaresSource(change={"test": all_ignored}),
            "targets.kind of the test split has no class: all of its pixels are ignored",
        ),
        (
            SquaresSource(fields={**FIELDS, "targets.kind": Field("map")}),
            "segmentation takes a map whose field says its classes, by vocabulary=… or names=…; none of "
            "these does: kind",
        ),
        (
            SquaresSource(change={"test": lambda values: {"kind": values["kind"].float()}}),
            "segmentation takes a map of whole numbers; this source has maps of decimal numbers alone",
        ),
    ],
)
def test_data_that_it_cannot_use_are_one_line(
    context_on: MakeContext, source: SquaresSource, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        segmentation(context_on(source))
    assert "\n" not in str(caught.value)
