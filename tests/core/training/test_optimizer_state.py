"""An optimizer's state in a checkpoint: any one goes on from its own, and refuses all others in a line."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_core import UserError, build_model, load_recipe, sample_masks, training_step
from jepa_core.settings import OptimizerSettings
from jepa_core.training.optimizer_state import load_optimizer_state
from jepa_core.training.parameter_groups import parameter_groups
from jepa_core.training.step import TrainingStep

GROUPS = (
    "optimizer.layer_decay=0.8",
    "optimizer.groups.p={match='predictor', lr_scale=0.1, weight_decay=0.2}",
    "optimizer.groups.f={match='encoder.patch_embed', frozen=true}",
)


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, *overrides)
    return training_step(build_model(resolved), resolved)


def run(step: TrainingStep, until: int) -> list[float]:
    losses = []
    while step.done < until:
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step.done))
        losses.append(step(images, sample_masks(step.model, 8, 0, step.done)).loss.item())
    return losses


def on_disk(state: Any) -> Any:
    """The state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["plain", "groups"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "timm_lamb", "timm_adafactor", "timm_adan"])
def test_each_goes_on_bit_for_bit(tiny_recipe: Path, name: str, groups: tuple[str, ...]) -> None:
    overrides = (f"optimizer.name={name}", *groups)
    whole = training(tiny_recipe, *overrides)
    run(whole, 3)
    weights, state = on_disk((whole.model.state_dict(), whole.state_dict()))
    resumed = training(tiny_recipe, "seed=9", *overrides)
    resumed.seed = whole.seed
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert run(resumed, 6) == run(whole, 6)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


def test_a_state_of_old_has_no_names_and_is_adamws(tiny_recipe: Path) -> None:
    state = training(tiny_recipe).state_dict()
    del state["optimizer_name"]
    for group in state["optimizer"]["param_groups"]:
        del group["names"]
    training(tiny_recipe).load_state_dict(state)
    with pytest.raises(UserError, match=r"its optimizer is 'adamw'; the recipe's is 'sgd', which cannot"):
        training(tiny_recipe, "optimizer=sgd").load_state_dict(state)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            ("optimizer=sgd",),
            (),
            "its optimizer is 'sgd'; the recipe's is 'adamw', which cannot go on from it",
        ),
        (("optimizer=timm_lamb",), ("optimizer=timm_lion",), "its optimizer is 'timm_lamb'; the recipe's is"),
        ((), GROUPS[1:2], "the optimizer's state is of groups of ["),
        (
            ("optimizer.groups.a={match='encoder.blocks.0', lr_scale=0.5}",),
            ("optimizer.groups.a={match='encoder.blocks.1', lr_scale=0.5}",),
            "the optimizer's state has 'encoder.blocks.1.attn.qkv.weight' in group 0, where this one",
        ),
    ],
)
def test_the_state_of_another_optimizer_or_other_groups_is_refused(
    tiny_recipe: Path, before: tuple[str, ...], now: tuple[str, ...], said: str
) -> None:
    state = training(tiny_recipe, *before).state_dict()
    step = training(tiny_recipe, *now)
    with pytest.raises(UserError) as error:
        step.load_state_dict(state)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
    assert step.done == 0


def test_other_rates_for_the_same_groups_are_the_recipes_affair(tiny_recipe: Path) -> None:
    state = training(tiny_recipe, *GROUPS).state_dict()
    step = training(tiny_recipe, *GROUPS, "optimizer.groups.p.lr_scale=0.7", "optimizer.warmup_steps=0")
    step.load_state_dict(state)
    run(step, 1)
    assert {g["lr"] / float(step.logged["lr"]) for g in step.optimizer.param_groups if g["group"] == "p"} == {
        0.7
    }


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("sgd", lambda entry: entry.update(momentum_buffer=torch.ones(3)), "parameter 0: momentum_buffer is"),
        ("sgd", lambda entry: entry.update(more=1), "parameter 0 is not SGD's; expected momentum_buffer"),
        ("sgd", lambda entry: entry.update(momentum_buffer=None), "momentum_buffer is no tensor"),
        ("muon", lambda entry: entry.update(step=1), "parameter 0 is not MuonWithAdamW's; expected momentum"),
        ("timm_lamb", lambda entry: entry.update(exp_avg="text"), "parameter 0: exp_avg is no tensor"),
        (
            "timm_lamb",
            lambda entry: entry.update(exp_avg=torch.ones(7)),
            "exp_avg has the shape [7], the param",
        ),
        ("timm_lamb", lambda entry: entry.update(a=[torch.ones(1), torch.ones(7)]), "a has the shape [7]"),
        ("timm_lamb", lambda entry: entry.update(a=float("nan")), "a is no tensor"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(
    tiny_recipe: Path, name: str, change: Change, said: str
) -> None:
    step = training(tiny_recipe, f"optimizer.name={name}")
    run(step, 1)
    state = on_disk(step.state_dict())
    change(state["optimizer"]["state"][0])
    with pytest.raises(UserError) as error:
        step.load_state_dict(state)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_counter_that_is_no_number_is_refused(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "optimizer.name=timm_adan")
    run(step, 1)
    state = on_disk(step.state_dict())
    assert [group["step"] for group in state["optimizer"]["param_groups"]] == [1, 1]
    state["optimizer"]["param_groups"][0]["step"] = "two"
    with pytest.raises(UserError, match="the optimizer's state counts 'two' as step; expected a number"):
        step.load_state_dict(state)


class WithState(torch.optim.SGD):
    """An optimizer whose state is more than groups and entries, as that of timm's kron is."""

    drawn = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state_dict: Any) -> None:
        self.drawn = state_dict["drawn"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "drawn"})


def test_what_an_optimizer_keeps_beside_its_entries_goes_on_too() -> None:
    settings = OptimizerSettings(name="any")
    first, second = (WithState(parameter_groups(torch.nn.Linear(2, 2), settings), lr=0.1) for _ in range(2))
    first.drawn = 5
    load_optimizer_state(second, on_disk(first.state_dict()), settings)
    assert second.drawn == 5
