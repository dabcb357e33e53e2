"""Scores of depth on cases that are done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from jepa_core import UserError
from jepa_core.evaluate.dense.depth import log_patches
from jepa_core.evaluate.dense.depth_scores import DepthErrors, MeanMaps, score_rows, valid_pixels

DEPTH = torch.tensor([[[1.0, 2.0], [4.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])
KNOWN = DEPTH > 0
OBJECTS = torch.tensor([[[True, False], [False, True]], [[False, False], [False, False]]])
GUESS = torch.tensor([[[1.0, 3.0], [3.0, 9.0]], [[2.6, 2.0], [2.0, 2.0]]])
BASE = torch.full_like(DEPTH, 3.0)


def errors(guess: torch.Tensor) -> DepthErrors:
    made = DepthErrors()
    made.add_pixels(guess, DEPTH, KNOWN, OBJECTS)
    made.add_patches(guess.flatten(1), DEPTH.flatten(1), KNOWN.flatten(1))
    return made


def test_scores_by_hand() -> None:
    scores = errors(GUESS).scores(errors(BASE), "m")
    assert list(scores) == ["skill", "skill_pixels", "rmse", "rmse_objects", "abs_rel", "delta1"]
    base = (4 + 1 + 1) + 4 * 1  # of both images
    assert scores["skill_pixels"].value == pytest.approx(1 - (0 + 1 + 1 + 0.36) / base)
    assert scores["skill"].value == pytest.approx(scores["skill_pixels"].value)
    assert scores["rmse"].value == pytest.approx((math.sqrt(2 / 3) + 0.3) / 2)
    assert scores["rmse"].unit == "m"
    assert scores["rmse_objects"].value == 0, "the one known pixel on an object is right"
    assert scores["abs_rel"].value == pytest.approx(((0 + 1 / 2 + 1 / 4) / 3 + 0.3 / 4) / 2)
    assert scores["delta1"].value == pytest.approx((1 / 3 + 3 / 4) / 2), "4 for 3 is over 1.25, 2 for 2.6 too"
    assert scores["rmse"].better == "lower"


def test_the_mean_map_has_no_skill_and_is_beaten_by_the_truth() -> None:
    rows = score_rows({"truth": errors(DEPTH), "mean map": errors(BASE)}, "mean map", "m")
    assert (rows["mean map"]["skill"].value, rows["mean map"]["skill"].se) == (0, 0)
    assert rows["truth"]["skill_pixels"].value == 1


def test_an_image_of_holes_counts_for_nothing() -> None:
    made, alone = errors(GUESS), errors(GUESS)
    nothing = torch.zeros(1, 2, 2)
    made.add_pixels(nothing + 5, nothing, nothing > 0, nothing > 0)
    made.add_patches(nothing.flatten(1) + 5, nothing.flatten(1), nothing.flatten(1) > 0)
    assert made.scores(made, "") == alone.scores(alone, "")


def test_mean_maps_leave_holes_out() -> None:
    means = MeanMaps.empty((2, 2), 1)
    logs, known = log_patches(DEPTH, KNOWN, (1, 1))
    means.add(DEPTH, KNOWN, logs, known)
    assert means.pixels().tolist() == [[1.5, 2.0], [3.0, 2.0]]
    geometric = (1 * 2 * 4) ** (1 / 3)
    assert means.patches().item() == pytest.approx((geometric + 2) / 2)
    assert means.log_patches().exp().item() == pytest.approx(math.sqrt(geometric * 2))


def test_a_pixel_that_never_has_a_depth_gets_the_mean_of_all() -> None:
    means = MeanMaps.empty((1, 2), 1)
    depth = torch.tensor([[[4.0, 0.0]]])
    means.add(depth, depth > 0, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert means.pixels().tolist() == [[4.0, 4.0]]


def test_holes_are_zeros_and_what_is_not_finite_and_nothing_is_negative() -> None:
    depth = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf, 1.0])
    assert valid_pixels(depth, "depth").tolist() == [False] * 4 + [True]
    said = r"targets.depth holds -2.5; a depth is positive \(0, NaN and infinite: a hole\)"
    with pytest.raises(UserError, match=said):
        valid_pixels(torch.tensor([1.0, -2.5]), "depth")
