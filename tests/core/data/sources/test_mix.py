"""Several sources in one: shares, orders, batches of one source, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_core import UserError, load_recipe
from jepa_core.assembly import build
from jepa_core.data import TransformSettings, make_loader
from jepa_core.data.sources.mix import MixSamples, MixSource
from tests.core.data.named_worlds import Pairs


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Images of value 0 to 39, and of value 100 to 119."""
    paths = {}
    for name, start, count in (("dark", 0, 40), ("bright", 100, 20)):
        values = np.arange(start, start + count, dtype=np.uint8)
        images = np.broadcast_to(values[:, None, None, None], (count, 8, 8, 3))
        paths[name] = tmp_path / f"{name}.npz"
        np.savez(paths[name], images=images, labels=np.arange(count) % 2)
    return paths


def mix(files: dict[str, Path], **settings: Any) -> MixSource:
    sources = {
        name: {"name": "npz", "path": str(path), "val_share": 0.0, "test_share": 0.0}
        for name, path in files.items()
    }
    for name, weight in settings.pop("weights", {}).items():
        sources[name]["weight"] = weight
    config = MixSource.Config(name="mix", sources=sources, **settings)
    config.check()
    return MixSource(config)


def shown(samples: Any, steps: int = 7, batch: int = 8, **named: Any) -> list[list[int]]:
    """The value of each image, batch by batch."""
    plain = TransformSettings(crop_scale=(1.0, 1.0), mean=(0, 0, 0), std=(1, 1, 1))
    loader = make_loader(samples, plain, (3, 8, 8), batch, steps=range(steps), seed=1, **named)
    return [(one.batch.views["image"][:, 0, 0, 0] * 255).round().int().tolist() for one in loader]


def test_weights_share_an_epoch(files: dict[str, Path]) -> None:
    samples = mix(files, weights={"bright": 2.0}).split("train")
    order = samples.epoch_order(torch.Generator().manual_seed(0), 8)  # type: ignore[attr-defined]
    counts = Counter(int(position) < 40 for position in order)
    assert counts == {True: 20, False: 40}
    repeats = Counter(order.tolist())
    assert {repeats[position] for position in range(40, 60)} == {2}
    assert max(repeats[position] for position in range(40)) == 1


def test_every_image_of_its_own_source_comes_in_an_epoch(files: dict[str, Path]) -> None:
    samples = mix(files, weights={"dark": 40.0, "bright": 20.0}).split("train")
    order = samples.epoch_order(torch.Generator().manual_seed(0), 4)  # type: ignore[attr-defined]
    assert sorted(order.tolist()) == list(range(60))


def test_batches_follow_from_the_step_alone(files: dict[str, Path]) -> None:
    samples = mix(files).split("train")
    assert shown(samples) == shown(samples)
    assert shown(samples)[3:] == [*map(list, shown(samples))][3:]
    assert shown(samples, workers=2) == shown(samples)


def test_batches_in_turn_are_of_one_source(files: dict[str, Path]) -> None:
    samples = mix(files, by="batches").split("train")
    kinds = [{value >= 100 for value in batch} for batch in shown(samples)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {kind.pop() for kind in kinds} == {True, False}
    two_ranks = make_loader(
        samples, TransformSettings(), (3, 8, 8), 4, steps=range(7), seed=1, ranks=range(2), world=2
    )
    for one, other in zip(*[iter(two_ranks)] * 2, strict=True):
        bright = {bool(labels.batch.views["image"].mean() > 0) for labels in (one, other)}
        assert len(bright) == 1


def test_classes_and_splits_are_those_of_one_source(files: dict[str, Path]) -> None:
    samples = mix(files, classes_of="bright").split("train")
    assert samples[0][1] == -1  # type: ignore[index]
    assert samples[41][1] == 1  # type: ignore[index]
    assert mix(files).split("train")[1][1] == 1  # type: ignore[index]


def test_samples_with_named_values_lose_their_label_too() -> None:
    samples = MixSamples({"a": Pairs(4), "b": Pairs(4)}, {"a": 1.0, "b": 1.0}, "samples", "a")
    assert [samples[index].label for index in range(8)] == [0, 1, 0, 1, -1, -1, -1, -1]
    assert samples.keys()[4] == "b/0"
    assert len(set(samples.keys())) == 8


def test_a_recipe_names_them(files: dict[str, Path], tiny_recipe: Path) -> None:
    overrides = ["data.name=mix", "data.by=batches"]
    for name, path in files.items():
        overrides += [f"data.sources.{name}.name=npz", f"data.sources.{name}.path={path}"]
    recipe = load_recipe(tiny_recipe, *overrides, "data.sources.dark.weight=2")
    assert len(build("data", recipe.data).split("train")) == 32 + 16
    assert load_recipe(tiny_recipe, *overrides).to_table()["data"]["sources"]["dark"]["name"] == "npz"


@pytest.mark.parametrize(
    ("sources", "what"),
    [
        ({}, "data.sources has 0 of them; a mix takes two or more"),
        ({"a": {"name": "npz", "path": "x"}}, "data.sources has 1 of them"),
        ({"a": {}, "b": {}}, r"section \[data.sources.a\] has no name; known: cifar10"),
        ({"a": {"name": "npzz"}, "b": {}}, "'npzz'"),
        (
            {"a": {"name": "npz", "path": "x", "weight": 0}, "b": {}},
            "weight' is 0; expected a positive number",
        ),
        ({"a": {"name": "npz", "pat": "x"}, "b": {}}, "data.sources.a.pat"),
    ],
)
def test_what_is_no_mix_is_one_line(sources: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as error:
        MixSource.Config(name="mix", sources=sources).check()
    assert "\n" not in str(error.value)


def test_an_unknown_source_for_the_classes(files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"'drak'.*dark"):
        mix(files, classes_of="drak")
