"""The shipped checks over every component and recipe of core and of the plugins in this repository."""

from __future__ import annotations

from typing import Any

import pytest

from jepa_core import UserError, plugins
from jepa_core.plugins import KINDS
from jepa_core.recipes.files import names
from jepa_core.testing import check_recipe, examine, examine_recipe
from jepa_core.testing.outcomes import demand

SMALL: dict[str, dict[str, Any]] = {
    "classifier": {"classes": 3},
    "timm_vit": {"model": "test_vit", "image_size": 64},
    "official_tiny": {"image_size": 16, "patch_size": 4, "width": 32, "depth": 2, "heads": 2},
    "vit_tiny_patch16_224": {"image_size": [32, 64], "width": 32, "depth": 2, "heads": 2},
    "vit_predictor": {"depth": 1, "width": 48, "heads": 2},
    "vjepa_tiny": {"frames": 6, "image_size": [24, 32], "patch_size": 8, "width": 48, "depth": 2, "heads": 2},
    "pair_predictor": {"depth": 1, "width": 48, "heads": 2},
    "text_transformer": {"width": 32, "depth": 2, "heads": 2, "length": 12},
    "bag_of_words": {"width": 16, "length": 9},
    "vector_mlp": {"width": 16},
    "attentive": {"steps": 60, "width": 32, "lr": 0.01},
}
"""Settings of components whose defaults are large, or that have none."""

ROPE = {"depth": 2, "width": 48, "heads": 2, "positions": "rope", "init_std": 0.2}
"""Two blocks: to a first one, zero mask tokens are alike wherever they stand."""

MORE: list[tuple[str, str, dict[str, Any]]] = [
    (
        "encoder",
        "timm_vit",
        {"model": "test_vit", "positions": "sincos", "arguments": {"class_token": False}},
    ),
    ("encoder", "official_tiny", SMALL["official_tiny"] | {"init": "timm", "checkpoint": True}),
    ("predictor", "vit_predictor", SMALL["vit_predictor"] | {"context": "shared"}),
    (
        "encoder",
        "vjepa_tiny",
        {"frames": 4, "image_size": 32, "depth": 2, "positions": "rope", "checkpoint": True},
    ),
    ("predictor", "pair_predictor", ROPE | {"mask_tokens": 1}),
    ("predictor", "vit_predictor", ROPE | {"context": "shared"}),
    *(
        ("predictor", "vit_predictor", ROPE | {"condition": how, "condition_name": name, "context": context})
        for how, name, context in (
            ("cross", "ids", "shared"),
            ("cross", "sequence", "repeat"),
            ("adaln", "vector", "shared"),
            ("tokens", "ids", "repeat"),
            ("tokens", "vector", "shared"),
        )
    ),
    (
        "predictor",
        "pair_predictor",
        SMALL["pair_predictor"] | {"condition": "cross", "condition_name": "ids"},
    ),
    ("encoder", "text_transformer", SMALL["text_transformer"] | {"positions": "rope", "causal": True}),
    ("encoder", "text_transformer", SMALL["text_transformer"] | {"positions": "sincos", "vocabulary": 70}),
    ("encoder", "vector_mlp", {"inputs": 6, "length": 7, "depth": 1}),
    ("objective", "infonce", {"learned": True, "symmetric": False}),
    ("masker", "multiblock", {"truncate": "first", "last_row": False}),
    ("masker", "multiblock3d", {"truncate": "first", "rounding": "sides"}),
    ("masker", "multiblock3d", {"pairs": {"one": {"blocks": 3, "scale": 0.4, "time_scale": [0.2, 0.7]}}}),
    ("masker", "multiblock", {"sizes": "sample", "contexts": 2, "correlated": True}),
    ("objective", "l1", {"average": "pairs"}),
    ("optimizer", "sgd", {"nesterov": True, "momentum": 0.5}),
    ("optimizer", "muon", {"adjust": "original", "nesterov": False}),
    ("objective", "variance_covariance", {"on": "tokens"}),
    ("target_update", "ema", {"momentum": [1.0, 1.0], "shape": "cosine"}),
    ("variant", "jepa", {"target_layers": 2, "target_norm": "batch"}),
    ("variant", "jepa", {"target_gradient": True, "target_norm": "position"}),
]
"""Settings that change what a component does."""

OURS = ("core", "finetune", "ijepa", "lejepa", "vjepa")
OWN_PARTS = {"classifier": "finetune/selftest", "lejepa": "lejepa/selftest"}
"""Variants that refuse the small parts of the checks, and the recipe in which they are checked instead."""


def registered() -> list[tuple[str, str]]:
    """(kind, name): each class once, under the first of its names that is no pattern."""
    found: dict[tuple[str, type], str] = {}
    for kind in sorted(set(KINDS) - {"data"}):  # those read data: tests/core/testing/test_data_checks.py
        catalogue = plugins.registry().catalogue(kind)
        for name, component in sorted(catalogue.classes.items()):
            if catalogue.owners[name] in OURS and "*" not in name and name not in OWN_PARTS:
                best = min(found.get((kind, component), name), name, key=lambda n: n not in SMALL)
                found[kind, component] = best
    return [(kind, name) for (kind, _), name in found.items()]


@pytest.mark.parametrize(("kind", "name"), [*registered(), ("encoder", "vit_tiny_patch16_224")])
def test_every_registered_component_conforms(kind: str, name: str) -> None:
    demand(examine(kind, name, **SMALL.get(name, {})))


@pytest.mark.parametrize(("kind", "name", "settings"), MORE)
def test_and_with_settings_that_change_what_it_does(kind: str, name: str, settings: dict[str, Any]) -> None:
    demand(examine(kind, name, **settings))


@pytest.mark.parametrize("name", [name for name in names() if name.partition("/")[0] in OURS])
def test_every_recipe_conforms(name: str) -> None:
    check_recipe(name)


def test_all_that_the_plugins_offer_is_asked() -> None:
    kinds = {kind for kind, _ in registered()}
    assert kinds == set(KINDS) - {"data"}
    assert {("masker", "multiblock"), ("encoder", "official_tiny"), ("variant", "jepa")} <= set(registered())


@pytest.mark.parametrize(("variant", "recipe"), OWN_PARTS.items())
def test_a_variant_with_parts_of_its_own_says_so_and_is_checked_in_a_recipe(
    variant: str, recipe: str
) -> None:
    with pytest.raises(UserError, match=f"'{variant}'"):
        examine("variant", variant, **SMALL.get(variant, {}))
    trained = [outcome for outcome in examine_recipe(recipe) if outcome.property == "goes on"]
    assert [outcome.state for outcome in trained] == ["holds"]
