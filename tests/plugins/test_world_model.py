"""A world model in a distribution of its own (`tests/third_party/jepa_walk`), by documented interfaces alone.

Which action belongs to which frame is tested with a world of numbers: a frame is one number, an action is
added to it, the encoder reads the number and the predictor adds. Then every prediction is exact.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jepa_core import Batch, Field, Grid, IndexSet, MaskPlan, Tokens, UserError
from jepa_core.target_updates import NoTarget
from tests.fresh_environment import ROOT, FreshEnvironment, build_wheel

FOLDER = ROOT / "tests" / "third_party" / "jepa_walk"
FIELDS = {"condition.actions": Field("sequence", (4, 1))}


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin's two modules, as if it were installed."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from jepa_walk import source, variant

    return SimpleNamespace(source=source, variant=variant)


class ReadNumber:
    """An encoder of frames [B, 3, 2, 2] that all show one number: four tokens of it."""

    width, depth, heads = 1, 1, 1

    def __call__(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        return Tokens(view[:, 0].reshape(-1, 1), IndexSet.full(len(view), 4), (2, 2))


class AddAction:
    """A predictor that adds the action of each frame to all its tokens."""

    def __call__(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any
    ) -> tuple[Tokens, ...]:
        (context,) = contexts
        moved = context.dense() + condition["actions"][:, None]
        return (Tokens(moved.flatten(0, 1), plan.targets[0], grid),)


def world_of_numbers(walk: Any, horizon: int = 3, fields: Any = FIELDS) -> Any:
    config = walk.variant.WorldModel.Config(
        name="world_model", horizon=horizon, target_norm="none", target_gradient=True
    )
    update = NoTarget(NoTarget.Config(name="none"))
    parts = {"encoder": ReadNumber(), "predictor": AddAction(), "masker": None, "target_update": update}
    return walk.variant.WorldModel(config, fields=fields, objectives={}, **parts)


def films(samples: int = 3, frames: int = 5) -> Batch:
    """Films [B, 3, T, 2, 2] whose frame t + 1 is frame t plus action t."""
    draw = torch.Generator().manual_seed(0)
    actions = torch.randn(samples, frames - 1, 1, generator=draw, dtype=torch.float64)
    first = torch.randn(samples, 1, generator=draw, dtype=torch.float64)
    numbers = torch.cat([first, first + actions[..., 0].cumsum(1)], dim=1)
    view = numbers[:, None, :, None, None].expand(-1, 3, -1, 2, 2)
    return Batch({"film": view}, {"actions": actions})


def test_action_t_leaves_frame_t(walk: Any) -> None:
    """Each frame but the first is predicted exactly, and so is the roll-out from the first."""
    batch = films()
    step = world_of_numbers(walk).run_stages(batch, MaskPlan())
    (guess,), (target,) = step.predictions, step.targets
    assert target.values.shape == (3 * 4 * 4, 1)
    assert torch.allclose(guess.values, target.values)
    rollout = step.of_group("rollout")
    assert len(rollout.predictions) == len(rollout.targets) == 3
    for time, (ahead, reached) in enumerate(zip(rollout.predictions, rollout.targets, strict=True), 1):
        assert torch.allclose(ahead.values, reached.values)
        assert torch.equal(reached.dense()[:, 0, 0], batch.views["film"][:, 0, time, 0, 0])


def test_with_the_actions_of_the_frame_before_nothing_fits(walk: Any) -> None:
    batch = films()
    late = Batch(batch.views, {"actions": batch.condition["actions"].roll(1, dims=1)})
    step = world_of_numbers(walk).run_stages(late, MaskPlan())
    assert not torch.isclose(step.predictions[0].values, step.targets[0].values).any()


def test_the_roll_out_never_sees_a_later_frame(walk: Any) -> None:
    batch = films()
    batch.views["film"].requires_grad_()
    step = world_of_numbers(walk).run_stages(batch, MaskPlan())
    seen = torch.autograd.grad(step.groups["rollout"].predictions[-1].values.sum(), batch.views["film"])[0]
    assert seen[:, :, 0].any()
    assert not seen[:, :, 1:].any()


@pytest.mark.parametrize("fields", [None, {"condition.actions": Field("sequence", (None, 2))}, FIELDS])
def test_too_few_actions_are_one_line(walk: Any, fields: Any) -> None:
    with pytest.raises(UserError, match=r"^world_model needs 5 condition.actions; got (0|4|None)$"):
        world_of_numbers(walk, horizon=5, fields=fields)


def test_a_window_brings_the_steps_between_its_frames_and_the_last_place(walk: Any) -> None:
    """By the pixels: the centre of what is white."""
    window = walk.source.Walk(3).window(4, 6)
    film, actions = window.views["film"], window.condition["actions"]
    white = [(frame[0] == 255).nonzero().float().mean(0).flip(0) for frame in film]
    assert (film.shape, actions.shape) == ((6, 3, 32, 32), (5, 2))
    for before, action, after in zip(white, actions, white[1:], strict=False):
        assert torch.equal(before + action, after)
    assert torch.equal(window.targets["place"], white[-1])
    assert actions.abs().max() <= 5
    assert actions.unique(dim=0).shape[0] > 2


def test_all_of_it_is_shorter_than_150_lines() -> None:
    lines = [line for file in FOLDER.rglob("*.py") for line in file.read_text().splitlines()]
    assert 50 < len(lines) < 150


@pytest.fixture(scope="module")
def fresh(core_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """An environment with jepa-core and the world model, each from its wheel."""
    folder = tmp_path_factory.mktemp("world_model")
    environment = FreshEnvironment(folder)
    environment.install(core_wheel, build_wheel(FOLDER, folder))
    return environment


@pytest.mark.install
@pytest.mark.slow
def test_installed_it_passes_every_check(fresh: FreshEnvironment) -> None:
    outcomes = json.loads(fresh.jepa("plugins", "check", "walk", "--data", "--json"))
    text = json.dumps(outcomes)
    assert '"holds"' in text
    assert '"fails"' not in text


@pytest.mark.install
@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(fresh: FreshEnvironment) -> None:
    fresh.jepa("train", "walk/selftest", "--run", "whole")
    whole, cut = fresh.empty / "whole", fresh.empty / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000004")
    fresh.jepa("train", "--resume", "cut")
    ends = [load_file(run / "checkpoints/step-00000004/model.safetensors") for run in (whole, cut)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, cut)]
    losses = [[json.loads(line)["loss/rollout"] for line in of_run] for of_run in lines]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


@pytest.mark.install
@pytest.mark.slow
def test_its_features_know_the_place_and_the_random_twin_less(fresh: FreshEnvironment) -> None:
    fresh.jepa("train", "walk/demo", "train.steps=120", "data.count=1024", "--run", "demo")
    printed = fresh.jepa("eval", "demo")
    assert "regression: place" in printed
    assert "rmse, pixels" in printed
    tables = json.loads((fresh.empty / "demo" / "eval.json").read_text())["evaluations"]
    rows = next(table for table in tables if table["name"] == "regression")["rows"]
    r2 = {row["name"]: row["scores"]["r2"]["value"] for row in rows}
    assert r2["trained"] > r2["random twin"] + 0.15
