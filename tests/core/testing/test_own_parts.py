"""Plugins whose variant and predictor need parts of their own are checked with those of their recipe.

The plugin's source offers example values, so that its targets, labels, condition and side are what they say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest
import torch

from jepa_core import UserError, build_model, load_recipe, plugins
from jepa_core.assembly import random_batch
from jepa_core.testing import Outcome
from jepa_core.testing.own_parts import behaviour_in_recipe, needs_own_parts
from jepa_core.testing.subject import Subject

MODULE = '''
"""A source with a map, an action and a state; a variant and a predictor that want all of it."""
from pathlib import Path
import torch
from jepa_core import JEPA, ComponentSettings, Field, Tokens, hookimpl
from jepa_core.settings import SourceSettings
from jepa_core.testing.small_parts import SmallPredictor

class Arms:
    """Arms that move."""
    class Config(SourceSettings):
        """Settings."""
    examples = None
    def __init__(self, config): pass
    def split(self, name): raise AssertionError("no data are read")
    def fields(self):
        return {"views.image": Field("image"), "condition.action": Field("vector", (2,)),
                "side.heat": Field("image"), "targets.state": Field("vector", (3,))}
    def example_values(self, batch_size, generator):
        if self.examples is not None:
            return self.examples
        heat = torch.rand(batch_size, 8, 8, generator=generator)
        return {"side.heat": heat, "label": torch.arange(batch_size) + 5}

class StateJEPA(JEPA):
    """It wants the state, labels of its classes, and the map."""
    class Config(JEPA.Config):
        """Settings."""
    def run_stages(self, batch, plan):
        assert batch.labels.min() == 5 and batch.side["heat"].shape[1:] == (8, 8)
        assert batch.targets["state"].shape[1] == 3
        return super().run_stages(batch, plan)

class OfPatches(SmallPredictor):
    """It takes the size of the patches from its encoder, and an action from the source."""
    class Config(ComponentSettings):
        """Settings."""
    def __init__(self, config, encoder, target_width):
        super().__init__(config, encoder, target_width)
        self.patch = encoder.config.patch_size
        self.action = torch.nn.Linear(2, target_width)
    def forward(self, contexts, plan, grid, condition=None):
        actions = self.action(condition["action"])
        parts = super().forward(contexts, plan, grid)
        return tuple(Tokens(t.values + actions[t.at.samples], t.at, t.grid) for t in parts)

@hookimpl
def jepa_data(): return {"arms": Arms}
@hookimpl
def jepa_variants(): return {"state": StateJEPA}
@hookimpl
def jepa_predictors(): return {"of_patches": OfPatches}
@hookimpl
def jepa_recipes(): return Path(__file__).parent / "recipes"
'''
RECIPE = """# arms/selftest: arms
# cost: seconds
# expected: nothing
# data: none
extends = "ijepa/selftest"
data = {name = "arms"}
variant = {name = "state"}
predictor = {name = "of_patches"}
"""


@pytest.fixture(scope="module", autouse=True)
def _arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin `arms`, known in this process as by its entry point."""
    place = tmp_path_factory.mktemp("arms")
    (place / "jepa_arms/recipes").mkdir(parents=True)
    (place / "jepa_arms/__init__.py").write_text(MODULE, encoding="utf-8")
    (place / "jepa_arms/recipes/selftest.toml").write_text(RECIPE, encoding="utf-8")
    stock, mine = plugins.entry_points, EntryPoint("arms", "jepa_arms", "jepa")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.setattr(plugins, "entry_points", lambda group: [*stock(group=group), mine])
        plugins.registry.cache_clear()
        yield
    plugins.registry.cache_clear()
    sys.modules.pop("jepa_arms", None)


def in_recipe(kind: str, name: str) -> list[Outcome]:
    recipe, subject = load_recipe("arms/selftest"), Subject.of(kind, name, {})
    assert needs_own_parts(subject, recipe)
    return list(behaviour_in_recipe(subject, recipe))


@pytest.mark.parametrize(("kind", "name"), [("variant", "state"), ("predictor", "of_patches")])
def test_a_component_that_needs_parts_of_its_own_is_checked_with_its_recipes(kind: str, name: str) -> None:
    outcomes = in_recipe(kind, name)
    assert [(o.property, o.said) for o in outcomes if o.state == "fails"] == []
    held = {o.property for o in outcomes if o.state == "holds"}
    assert (
        held
        >= {
            "variant": {"finite loss", "goes on", "all trained", "features"},
            "predictor": {"a prediction a pair", "batch mates", "places matter", "condition matters"},
        }[kind]
    )


def test_a_component_that_is_broken_fails_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: object, *_: object) -> None:
        raise KeyError("tea")

    plugins.registry()  # imports it
    monkeypatch.setattr(sys.modules["jepa_arms"].OfPatches, "forward", forward)  # type: ignore[attr-defined]
    failed = {o.property: o.said for o in in_recipe("predictor", "of_patches") if o.state == "fails"}
    assert failed["a prediction a pair"] == "KeyError: 'tea'"


@pytest.mark.parametrize(("kind", "name"), [("variant", "jepa"), ("predictor", "vit_predictor")])
def test_others_get_the_small_parts(kind: str, name: str) -> None:
    recipe = load_recipe("ijepa/selftest")
    settings = {"depth": 1, "width": 48, "heads": 2} if kind == "predictor" else {}
    assert not needs_own_parts(Subject.of(kind, name, settings), recipe)


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([1], "returned a list; expected values by their places"),
        (
            {"side.heet": "x"},
            "unknown place 'side.heet'; known: condition.action, label, side.heat, targets.state, "
            "views.image. Did you mean 'side.heat'?",
        ),
        ({"side.heat": 3}, "side.heat is a int; expected a tensor or a Packed"),
        ({"side.heat": "rows"}, "side.heat is of 3 samples; expected 2"),
        ({"label": "floats"}, "label is torch.float32 [2]; expected int64 [2]"),
    ],
)
def test_examples_that_do_not_fit_are_one_line(
    examples: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"rows": torch.zeros(3, 8), "floats": torch.zeros(2)}
    if isinstance(examples, dict):
        examples = {place: tensors.get(str(value), value) for place, value in examples.items()}
    plugins.registry()  # imports it
    monkeypatch.setattr(sys.modules["jepa_arms"].Arms, "examples", examples)  # type: ignore[attr-defined]
    recipe = load_recipe("arms/selftest")
    model = build_model(recipe)
    with pytest.raises(UserError) as error:
        random_batch(recipe, model, 2)
    prefix = "example_values of the source 'arms'"
    assert str(error.value).removeprefix(prefix).lstrip(": ") == said


def test_what_is_not_offered_is_random_and_labels_reach_every_batch() -> None:
    recipe = load_recipe("arms/selftest")
    batch = random_batch(recipe, build_model(recipe), 4)
    assert batch.labels.tolist() == [5, 6, 7, 8]  # type: ignore[union-attr]
    assert tuple(batch.views["image"].shape) == (4, 3, 32, 32)
    assert tuple(batch.condition["action"].shape) == (4, 2)
    plain = load_recipe("ijepa/selftest")
    assert random_batch(plain, build_model(plain), 4).labels.tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]
