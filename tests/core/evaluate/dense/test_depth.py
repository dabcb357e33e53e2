"""The evaluation `depth` on squares before a slope, and what it says to data that it cannot use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_core import Field, UserError
from jepa_core.evaluate.dense.depth import depth
from jepa_core.evaluate.model_evaluations import evaluate_with
from tests.core.evaluate.dense.conftest import MakeContext
from tests.core.evaluate.dense.made_maps import FIELDS, Squares, SquaresSource

ROWS = ["trained", "random twin", "raw patch pixels", "position only", "mean map"]


def test_rows_scores_and_what_was_counted(context_on: MakeContext) -> None:
    (table,) = evaluate_with({"depth": depth}, context_on())
    assert [row.name for row in table.rows] == ROWS
    assert (table.name, table.task, table.count, table.samples) == ("depth", None, 20, "images")
    scores = {row.name: row.scores for row in table.rows}
    assert list(table.own) == ["skill", "skill_pixels", "rmse", "rmse_objects", "abs_rel", "delta1"]
    assert table.own["rmse"].unit == "m"
    assert scores["mean map"]["skill"].value == scores["mean map"]["skill_pixels"].value == 0
    assert scores["trained"]["skill"].value > 0.3, "even random features show a square"
    assert abs(scores["position only"]["skill"].value) < 0.1
    assert "fitted on 48 training images" in table.note
    assert "hole" not in table.note
    assert "rmse_objects: where targets.kind is above 0" in table.note


def test_batches_of_another_size_change_nothing(context_on: MakeContext) -> None:
    one, other = depth(context_on(batch_size=7))[0], depth(context_on(batch_size=48))[0]
    for first, second in zip(one.rows, other.rows, strict=True):
        for name, score in first.scores.items():
            assert score.value == pytest.approx(second.scores[name].value, abs=1e-3)


def dig(values: dict[str, Any]) -> dict[str, Any]:
    """The same depth with holes of every kind in its first row."""
    deep = values["depth"].clone()
    deep[0, :4] = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf])
    return {"depth": deep}


def test_holes_are_left_out_and_counted(context_on: MakeContext) -> None:
    whole = depth(context_on())[0]
    table = depth(context_on(SquaresSource(change={"train": dig, "test": dig})))[0]
    assert (
        f"{48 * 4:,} of {48 * 256:,} training pixels are holes (0, NaN, infinite) and left out." in table.note
    )
    assert (
        f"{20 * 4:,} of {20 * 256:,} scored pixels are holes (0, NaN, infinite) and left out." in table.note
    )
    assert table.own["skill"].value == pytest.approx(whole.own["skill"].value, abs=0.05)


def test_the_training_split_is_scored_with_a_word(context_on: MakeContext) -> None:
    assert "the scored ones, so no measure of new ones" in depth(context_on(split="train"))[0].note


def test_two_maps_are_two_tables(context_on: MakeContext) -> None:
    fields = {**FIELDS, "targets.far": Field("map", units="km")}
    double = {name: lambda values: {"far": 2 * values["depth"]} for name in ("train", "test")}
    near, far = depth(context_on(SquaresSource(change=double, fields=fields)))
    assert (near.task, far.task) == ("depth", "far")
    assert far.own["rmse"].unit == "km"
    assert far.own["rmse"].value == pytest.approx(2 * near.own["rmse"].value, rel=1e-4)


def holes(values: dict[str, Any]) -> dict[str, Any]:
    return {"depth": torch.zeros(16, 16)}


def whole_numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {"depth": values["depth"].long()}


NO_MAPS = {"views.image": Field("image"), "targets.place": Field("vector", (2,))}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            SquaresSource(change={"train": holes}),
            r"targets.depth of the training split holds no depth: all 12,288 pixels are holes \(0, NaN or",
        ),
        (
            SquaresSource(change={"test": holes}),
            r"targets.depth of the test split holds no depth: all 5,120 pixels are holes \(0, NaN or",
        ),
        (
            SquaresSource(change={"train": lambda values: {"depth": -values["depth"]}}),
            r"targets.depth holds -8; a depth is positive \(0, NaN and infinite: a hole\)",
        ),
        (
            SquaresSource(change={"test": whole_numbers}),
            "depth takes a map of decimal numbers; this source has maps of whole numbers alone: depth, kind",
        ),
        (
            SquaresSource(change={"test": lambda values: {"depth": values["depth"][1:]}}),
            r"sample 0 \(0\) of squares: targets.depth is a map of \[15, 16\] pixels; expected \[16, 16\]",
        ),
        (
            SquaresSource(fields=NO_MAPS),
            "depth needs a map of the pixels among the targets, a field of the kind map; this source has "
            "targets.place",
        ),
        (
            SquaresSource(SquaresSource.Config(name="squares", train=1)),
            "depth chooses its ridge on a tenth of the training images; the 1 that there are do not suffice",
        ),
    ],
)
def test_data_that_it_cannot_use_are_one_line(
    context_on: MakeContext, source: SquaresSource, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        depth(context_on(source))
    assert "\n" not in str(caught.value)


class Plain:
    """A source that describes nothing."""

    def split(self, name: str) -> Squares:
        return Squares(8, 1)


def test_a_source_without_maps_costs_its_own_table(
    context_on: MakeContext, caplog: pytest.LogCaptureFixture
) -> None:
    (table,) = evaluate_with({"depth": depth}, context_on(Plain()))
    assert table.error.endswith("this source has no targets")
    assert "evaluation 'depth' of plugin" in caplog.text


def test_an_encoder_whose_tokens_are_no_grid_of_rows_and_columns(context_on: MakeContext) -> None:
    context = context_on()
    context.model.grid = lambda role="context": (2, 4, 4)
    with pytest.raises(
        UserError, match=r"depth takes an encoder whose tokens .* that of this one is \(2, 4, 4\)"
    ):
        depth(context)
    context.model.grid = lambda role="context": (3, 5)
    with pytest.raises(UserError, match=r"features \[B, N, D\] of N = 3 x 5 tokens; .* gives \[16, 16, 32\]"):
        depth(context)


def test_an_encoder_of_another_view(context_on: MakeContext) -> None:
    context = context_on(role="words")
    context.model.view_of = lambda role: "words"
    with pytest.raises(UserError, match="depth asks for the encoder of the first view; got the role 'words'"):
        depth(context)


def test_features_that_are_not_finite(context_on: MakeContext) -> None:
    context = context_on()
    with torch.no_grad():
        for parameter in context.model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(UserError, match="the features are not finite: the encoder has diverged"):
        depth(context)
