"""The report's arithmetic and its texts, against sums done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core import build_model, load_recipe
from jepa_core.evaluate.table import EvalResult, Row
from jepa_core.report import charts, cost, neighbours, patch_maps, settings_table, summary, text
from jepa_core.report.embeddings import ImageFeatures
from jepa_core.report.summary import RunSummary


def made_summary(**replaced: Any) -> RunSummary:
    """A run of 10 steps of 128 images at 640 images/s, from made-up files."""
    lines = [
        {"step": 5, "loss": 2.0, "images_per_s": 640.0},
        {"step": 10, "loss": None, "images_per_s": 640.0},
    ]
    facts: dict[str, Any] = {
        "name": "a",
        "folder": Path("a"),
        "recipe": load_recipe("ijepa/demo", "train.steps=10"),
        "metrics": lines,
        "events": [],
        "evaluation": None,
    }
    return RunSummary(**{**facts, **replaced})


def started(device: str = "cpu", **cpu: int) -> dict[str, Any]:
    where = {"cpu": {"model": "x", "cores": 4, "threads": 3, **cpu}, "gpus": []}
    return {"kind": "started", "step": 0, "device": device, "total_steps": 10, "environment": where}


STOPPED = {"kind": "stopped", "step": 10, "why": "finished", "seconds": 7200}


def test_time_is_that_of_all_processes_or_else_that_of_the_steps() -> None:
    assert made_summary().training_seconds == pytest.approx(10 * 128 / 640)
    assert made_summary().wall_seconds is None
    twice = made_summary(events=[started(), {**STOPPED, "step": 4}, started(), STOPPED])
    assert (twice.wall_seconds, twice.seconds) == (14400, 14400)
    killed = made_summary(events=[started(), started(), STOPPED])
    assert (killed.wall_seconds, killed.seconds) == (None, killed.training_seconds)


def test_core_hours_count_threads_and_workers_up_to_the_cores() -> None:
    hours = {name: cost.device_hours(made_summary(events=[start, STOPPED])) for name, start in {
        "threads": started(),
        "few cores": started(cores=2),
        "gpu": started("cuda:0"),
        "eight": {**started("cuda:0"), "processes": 8},
    }.items()}  # fmt: skip
    assert hours == {
        "threads": (6.0, "core-hours"),
        "few cores": (4.0, "core-hours"),
        "gpu": (2.0, "GPU-hours"),
        "eight": (16.0, "GPU-hours"),
    }
    workers = made_summary(events=[started(), STOPPED], recipe=load_recipe("ijepa/demo", "data.workers=2"))
    assert cost.device_hours(workers) == (8.0, "core-hours")
    assert cost.device_hours(made_summary()) is None, "a machine nobody wrote down"


def test_flops_are_those_of_the_matrix_products(tiny_recipe: Path) -> None:
    """By hand, for dense masks: 2·m·n·k a product; once for the target, thrice where there is a gradient."""
    recipe = load_recipe(tiny_recipe, "masker.name=union", "masker.context=0.5", "masker.target=0.25")
    width, narrow, patch = 32, 24, 4 * 4 * 3

    def block(tokens: int, d: int) -> int:
        return 2 * tokens * (4 + 2 * 4) * d * d + 2 * 2 * tokens * tokens * d

    def encoder(tokens: int) -> int:
        return 2 * tokens * patch * width + 2 * block(tokens, width)

    seen, hidden = 8, 4
    unread = 2 * seen * (1 + 2 * 4) * narrow * narrow  # after attention only what is guessed is computed
    blocks = block(seen + hidden, narrow) - unread
    predictor = 2 * seen * width * narrow + blocks + 2 * hidden * narrow * width
    # the gradient of the images is not needed: the first layer's backward is one product, not two
    expected = encoder(16) + 3 * (encoder(seen) + predictor) - 2 * seen * patch * width
    counted = cost.flops_per_image(build_model(recipe), recipe)
    assert counted == pytest.approx(expected, rel=0.03)


def test_a_giant_is_not_counted(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "LARGEST", 10)
    recipe = load_recipe(tiny_recipe)
    assert cost.flops_per_image(build_model(recipe), recipe) is None


def test_components_are_colours_of_their_own() -> None:
    """Three groups of patches along three axes: each component tells groups apart, and signs are fixed."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(4, (2, 50), generator=generator)
    axes = torch.cat([torch.zeros(1, 8), torch.eye(3, 8) * torch.tensor([[9.0], [6.0], [3.0]])])
    features = axes[groups] + 0.01 * torch.randn(2, 50, 8, generator=generator)
    colours = patch_maps.pca_colours(features)
    assert colours.shape == (2, 50, 3)
    centres = np.stack([colours[groups.numpy() == group].mean(0) for group in range(4)])
    gaps = np.abs(centres[:, None] - centres[None]).max(-1) + 255 * np.eye(4)
    assert gaps.min() > 80, "every two groups differ in some colour"
    assert (patch_maps.pca_colours(features) == colours).all()


def test_features_of_one_dimension_have_one_colour_and_all_alike_are_black() -> None:
    line = patch_maps.pca_colours(torch.arange(12.0).view(1, 12, 1))
    assert line[0, 0, 0] == 0
    assert line[0, -1, 0] == 255
    assert not line[..., 1:].any()
    assert not patch_maps.pca_colours(torch.ones(2, 4, 3)).any()


def test_similarity_is_the_cosine_within_an_image() -> None:
    features = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.cosine_similarity(features[1, 2], features[1, 4], dim=0)
    torch.testing.assert_close(patch_maps.patch_similarity(features)[1, 2, 4], expected)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ((4, 4), [(0, 0), (2, 2), (3, 3)]),
        ((14, 14), [(1, 1), (7, 7), (12, 12)]),
        ((1, 1), [(0, 0)]),
        ((1, 8), [(0, 1), (0, 4), (0, 6)]),
    ],
)
def test_the_patches_looked_at_lie_on_the_grid(grid: tuple[int, int], expected: list[Any]) -> None:
    assert list(patch_maps.marked_patches(grid)) == expected


def features_of(values: Tensor, split: str, labels: list[int]) -> ImageFeatures:
    thumbs = torch.zeros(len(values), 3, 4, 4, dtype=torch.uint8)
    return ImageFeatures(split, values, torch.tensor(labels), thumbs, ["cat", "dog"])


def test_the_nearest_are_nearest_by_angle_and_never_the_image_itself() -> None:
    gallery = torch.tensor([[1.0, 0], [10, 1], [0, 5], [-3, 0]])
    cosines, order = neighbours.nearest_rows(torch.tensor([[2.0, 0]]), gallery, 2)
    assert order.tolist() == [[0, 1]]
    assert cosines[0, 1].item() == pytest.approx(10 / 101**0.5)
    again = neighbours.nearest_rows(gallery, gallery, 9, own=torch.arange(4))[1]
    assert again.shape == (4, 3)
    assert all(row not in found for row, found in enumerate(again.tolist()))


def test_neighbours_of_the_same_class_are_marked() -> None:
    test, train = (torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0.1], [1, 0.5], [0, 1.0]]))
    sheet = neighbours.neighbour_sheet(
        features_of(test, "test", [0, 1]), features_of(train, "train", [0, 1, 0]), 8
    )
    captions = [[cell.caption for cell in group] for group in sheet.groups]
    assert captions == [
        ["cat", "✓ cat 0.995", "dog 0.894", "✓ cat 0.000"],
        ["dog", "cat 1.000", "✓ dog 0.447", "cat 0.100"],
    ]
    assert [group[0].strong for group in sheet.groups] == [True, True]


def test_a_map_keeps_groups_together() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(60) % 3
    values = torch.eye(3, 16)[groups] * 5 + 0.3 * torch.randn(60, 16, generator=generator)
    points = torch.from_numpy(neighbours.flat_map(values))
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert (groups[nearest] == groups).float().mean() > 0.95


def test_ten_classes_have_a_style_each_and_more_are_grey() -> None:
    keys = charts.map_keys([f"c{i}" for i in range(10)])
    assert len({(key.colour, key.marker) for key in keys}) == 10
    many = charts.map_keys([f"c{i % 30:02}" for i in range(60)] + ["c29"] * 5)
    assert len(many) == 11
    assert many[-1].name == charts.OTHERS
    assert "c29" in [key.name for key in many], "the commonest are coloured"
    assert charts.map_keys([None, None]) == []


def test_where_a_setting_comes_from() -> None:
    base = load_recipe("ijepa/demo")
    changed = load_recipe("ijepa/demo", "optimizer.lr=1e-3", "masker.name=random", "seed=4")
    by_key = {row.key: row for row in settings_table.choices(changed, base)}
    assert (by_key["optimizer.lr"].origin, by_key["optimizer.lr"].instead_of) == ("run", "0.002")
    assert (by_key["masker.name"].value, by_key["masker.name"].instead_of) == ("random", "union")
    assert by_key["optimizer.final_lr"].origin == "recipe"
    assert by_key["optimizer.final_lr"].instead_of == "0.0"
    assert by_key["optimizer.eps"].origin == "default"
    assert (by_key["seed"].value, by_key["seed"].instead_of) == ("4", "0")
    assert by_key["optimizer.lr"].means == "Peak learning rate; not scaled by the batch size."
    assert all(row.origin != "run" for row in settings_table.choices(base, base))


def test_what_differs_between_runs_without_where_they_ran() -> None:
    recipes = [
        load_recipe("ijepa/demo"),
        load_recipe(
            "ijepa/demo", "masker.name=random", "train.device=cpu", "train.log_every=1", "data.workers=3"
        ),
    ]
    rows = dict(settings_table.differences(recipes))
    assert rows["masker.name"] == ["union", "random"]
    assert rows["masker.ratio"][0] == "–"
    assert not {"train.device", "train.log_every", "data.workers"} & rows.keys()
    assert all(key.startswith("masker.") for key in rows)


def table(knn: float, twin: float) -> EvalResult:
    rows = [
        Row(name=name, description="d", width=4, scores={"knn": {"top1": top1}}, rankme=1, feature_std=1)
        for name, top1 in (("trained", knn), ("random twin", twin))
    ]
    return EvalResult(
        rows=tuple(rows),
        baseline="random twin",
        split="test",
        train_images=5,
        held_out_images=10_000,
        classes=10,
        majority=0.1,
    )


def test_the_headline_is_the_result() -> None:
    events = [started(), {**STOPPED, "seconds": 242}]
    assert text.headline_of(made_summary(evaluation=table(0.481, 0.317), events=events)) == (
        "kNN 48.1 % on 10,000 test images, +16.4 over the random twin; 10 steps in 4 min 2 s; no alarms."
    )
    alarm = {"kind": "alarm", "step": 3, "text": "t"}
    early = made_summary(events=[started(), alarm, alarm, {**STOPPED, "step": 5, "why": "signal SIGTERM"}])
    early.metrics[-1]["step"] = 5  # type: ignore[index]
    assert text.headline_of(early) == "5 of 10 steps in 2 h, stopped: signal SIGTERM; 2 alarms."
    assert text.headline_of(made_summary(metrics=[])) == "imported weights, not trained here."


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (242, "4 min 2 s"),
        (3600, "1 h"),
        (11520, "3 h 12 min"),
        (190_800, "2 d 5 h"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_large_numbers() -> None:
    assert text.si(64_781_312, "FLOP") == "64.8 MFLOP"
    assert text.si(999.6, "FLOP") == "1 kFLOP"
    assert text.si(3e27, "FLOP") == "3e+06 ZFLOP"


def test_runs_are_called_by_as_little_as_tells_them_apart(tmp_path: Path) -> None:
    assert summary.names([tmp_path / "x/a", tmp_path / "x/b"]) == ["a", "b"]
    assert summary.names([tmp_path / "x/a", tmp_path / "y/a"]) == ["x/a", "y/a"]
