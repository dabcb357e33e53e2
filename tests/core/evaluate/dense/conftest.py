"""A context on squares before a slope, for models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core import build_model, load_recipe
from jepa_core.evaluate import EvaluationContext
from tests.core.evaluate.dense.made_maps import SquaresSource

MakeContext = Callable[..., EvaluationContext]


@pytest.fixture
def context_on(tiny_recipe: Path) -> MakeContext:
    """`context_on(source)`: two random models on this source."""
    recipe = load_recipe(tiny_recipe)

    def make(source: Any = None, **settings: Any) -> EvaluationContext:
        model, twin = build_model(recipe), build_model(recipe, seed=9)
        settings = {"batch_size": 16} | settings
        return EvaluationContext(recipe, model, twin, source or SquaresSource(), **settings)

    return make
