"""A plugin in a distribution of its own (`tests/third_party/jepa_example`): installed, found, trained with.

It adds a masker and a variant whose `make_targets` subtracts a running mean. At the first step that mean
is still zero, so the loss is the engine's own; at the second it has moved, and so has the loss.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.fresh_environment import ROOT, FreshEnvironment, build_wheel

pytestmark = [pytest.mark.install, pytest.mark.slow]


@pytest.fixture(scope="module")
def fresh(core_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """An environment with jepa-core and the example, each from its wheel."""
    folder = tmp_path_factory.mktemp("third_party")
    environment = FreshEnvironment(folder)
    environment.install(core_wheel, build_wheel(ROOT / "tests" / "third_party" / "jepa_example", folder))
    return environment


def trained(fresh: FreshEnvironment, images: Path, name: str, *overrides: str) -> list[dict[str, float]]:
    fresh.jepa("train", "example/tiny", f"data.path={images}", *overrides, "--run", name)
    return [json.loads(line) for line in (fresh.empty / name / "metrics.jsonl").read_text().splitlines()]


def test_the_plugin_is_found_with_what_it_offers(fresh: FreshEnvironment) -> None:
    listed = json.loads(fresh.jepa("plugins", "--json"))
    mine = next(plugin for plugin in listed["plugins"] if plugin["name"] == "example")
    assert (mine["state"], mine["origin"]) == ("loaded", "jepa_example (jepa-example 0.1.0)")
    assert listed["components"]["masker"]["checkerboard"] == "example"
    assert listed["components"]["variant"]["centred"] == "example"


def test_its_recipe_trains_and_its_changed_stage_acts(fresh: FreshEnvironment, tiny_images: Path) -> None:
    first, second = trained(fresh, tiny_images, "centred")
    plain_first, plain_second = trained(fresh, tiny_images, "plain", "variant.name=jepa")
    assert first["context_tokens"] == first["target_tokens"] == 8, "half of 4×4 fields has one colour"
    assert first["loss"] == plain_first["loss"]
    assert second["loss"] != plain_second["loss"]
    assert 0 < first["centre_norm"] < second["centre_norm"]
    assert "centre_norm" not in plain_second
    saved = load_file(fresh.empty / "centred/checkpoints/step-00000002/model.safetensors")
    assert saved["centre"].norm().item() == pytest.approx(second["centre_norm"])
