"""The sections of depth and classes: what they show, and of which runs they have nothing to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_core import Field, build_model, load_recipe
from jepa_core.assembly import build
from jepa_core.report.dense_maps import depth_maps, segmentation_maps
from jepa_core.report.sections import draw_section
from tests.core.evaluate.dense.made_maps import FIELDS, SquaresSource
from tests.core.evaluate.dense.test_depth import dig


@pytest.fixture
def model_of_run(tiny_recipe: Path) -> tuple[Any, Any]:
    recipe = load_recipe(tiny_recipe)
    return recipe, build_model(recipe).eval()


def test_depth_stands_beside_the_truth_in_its_unit(model_of_run: tuple[Any, Any]) -> None:
    section = depth_maps(*model_of_run, SquaresSource(change={"test": dig}))
    assert section is not None
    assert "fitted on 48 training images" in section.says
    figure = section.figure()
    axes = figure.axes
    titles = [axis.get_title() for axis in axes[:4]]
    assert titles == ["image", "truth", "read off the trained encoder", "read off random weights"]
    assert len(axes) == 6 * 4 + 1
    assert axes[-1].get_xlabel() == "depth in m, near is bright"
    low, high = axes[-1].get_xlim()
    assert (low, high) == pytest.approx((3, 8), abs=0.01)
    truth = np.asarray(axes[1].images[0].get_array())
    assert (truth[0, :4] == 255).all(), "holes are white"
    assert not (truth[1:] == 255).all(-1).any()
    assert draw_section(section, "salt").png[:4] == b"\x89PNG"


def test_classes_stand_beside_the_truth_with_their_names(model_of_run: tuple[Any, Any]) -> None:
    section = segmentation_maps(*model_of_run, SquaresSource())
    assert section is not None
    figure = section.figure()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ground", "bright", "dark"]
    truth = np.asarray(figure.axes[1].images[0].get_array())
    kinds = SquaresSource().split("test")[0].targets["kind"].numpy()
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) == len(np.unique(kinds))


def test_other_runs_have_nothing_to_show(model_of_run: tuple[Any, Any], tiny_recipe: Path) -> None:
    recipe, model = model_of_run
    images = build("data", recipe.data)
    assert depth_maps(recipe, model, images) is None
    assert segmentation_maps(recipe, model, images) is None
    classes = {**FIELDS}
    del classes["targets.depth"]
    assert depth_maps(recipe, model, SquaresSource(fields=classes)) is None
    depths = {"views.image": Field("image"), "targets.depth": FIELDS["targets.depth"]}
    assert segmentation_maps(recipe, model, SquaresSource(fields=depths)) is None
