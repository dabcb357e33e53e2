"""Groups of parameters: who belongs where, at which rate; layers; freezing; what is logged and printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_core import UserError, build_model, load_recipe, sample_masks, training_step
from jepa_core.settings.optimizer import OptimizerSettings
from jepa_core.settings.parse import parse
from jepa_core.training.optimizer import clip_parts
from jepa_core.training.parameter_groups import freeze_groups, group_parameters, parameter_groups
from jepa_core.training.step import TrainingStep


class Tower(nn.Module):
    """An embedding, two blocks, a norm."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, width))
        self.embed = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)


class Model(nn.Module):
    """Encoder and predictor, a second encoder by name, and a parameter of its own."""

    def __init__(self, text: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.predictor = Tower(), Tower()
        self.target_encoder = Tower().requires_grad_(False)
        self.encoders = nn.ModuleDict({"text": Tower() if text is None else text})
        self.temperature = nn.Parameter(torch.ones(()))


def settings(**values: Any) -> OptimizerSettings:
    return parse(OptimizerSettings, {"name": "any", **values}, "optimizer")


def groups_of(model: nn.Module, **values: Any) -> list[tuple[str, float, float | None, list[str]]]:
    groups = group_parameters(model, settings(**values))
    return [(g.name, g.lr_scale, g.fixed_decay, list(g.parameters)) for g in groups]


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, *overrides)
    return training_step(build_model(resolved), resolved)


def step_once(step: TrainingStep) -> None:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step.done))
    step(images, sample_masks(step.model, 8, 0, step.done))


def weights(step: TrainingStep) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in step.model.named_parameters()}


def test_the_first_group_in_the_order_of_the_file_has_a_parameter() -> None:
    text = {"match": "encoders.text", "lr_scale": 0.05, "weight_decay": 0.3}
    norms = {"match": ["*.norm.*", "temperature"], "lr_scale": 2.0}
    groups = groups_of(Model(), groups={"text": text, "norms": norms})
    assert [group[:3] for group in groups] == [
        ("", 1.0, None), ("", 1.0, 0.0), ("text", 0.05, 0.3), ("text", 0.05, 0.0), ("norms", 2.0, 0.0),
    ]  # fmt: skip
    names = {(name, decay): members for name, _, decay, members in groups}
    assert set(names["text", 0.0]) == {
        f"encoders.text.{name}"
        for name in ("embed.bias", "blocks.0.bias", "blocks.1.bias", "norm.weight", "norm.bias")
    }
    assert "temperature" in names["norms", 0.0]
    assert "encoder.norm.weight" in names["norms", 0.0]
    turned = groups_of(Model(), groups={"norms": norms, "text": text})
    assert "encoders.text.norm.weight" in turned[2][3]
    everything = [name for group in turned for name in group[3]]
    trainable = [name for name, p in Model().named_parameters() if p.requires_grad]
    assert sorted(everything) == sorted(trainable), "each exactly once"


def test_a_pattern_may_name_a_parameter_a_module_or_a_part_of_a_name() -> None:
    for pattern, count in (
        ("encoder.token", 1),
        ("encoder", 9),
        ("encoder.*", 9),
        ("enc*.blocks.?.weight", 4),
    ):
        groups = group_parameters(Model(), settings(groups={"a": {"match": pattern}}))
        assert sum(len(g.parameters) for g in groups if g.name == "a") == count, pattern


def test_layers_have_the_rates_of_mae() -> None:
    """The formula of MAE's released fine-tuning (lr_decay.py): layer_decay ** (layers - id)."""
    model, decay = Model(), 0.5
    by_name = {
        name: (scale, fixed)
        for _, scale, fixed, members in groups_of(model, layer_decay=decay)
        for name in members
    }
    layers = len(model.encoder.blocks) + 1
    for part in ("encoder", "encoders.text"):
        ids = {"token": 0, "embed.weight": 0, "blocks.0.weight": 1, "blocks.1.bias": 2, "norm.weight": layers}
        for name, number in ids.items():
            assert by_name[f"{part}.{name}"][0] == decay ** (layers - number), name
    assert by_name["predictor.blocks.0.weight"] == (1.0, None)
    assert by_name["encoder.embed.bias"] == (0.125, 0.0)


def test_layer_decay_and_the_scale_of_a_group_multiply() -> None:
    groups = groups_of(Model(), layer_decay=0.5, groups={"e": {"match": "encoder", "lr_scale": 0.1}})
    scales = [scale for name, scale, _, _ in groups if name == "e"]
    assert (
        scales
        == sorted(scales, reverse=True)
        == pytest.approx([0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125])
    )


class Sized(Tower):
    """An encoder that numbers its layers itself."""

    depth = 1

    def layer_of(self, parameter_name: str) -> int:
        return 2 if parameter_name.startswith("norm") else int("blocks" in parameter_name)


class Wrong(Sized):
    def layer_of(self, parameter_name: str) -> int:
        return 3


def test_an_encoder_may_number_its_layers_itself() -> None:
    groups = groups_of(Model(Sized()), layer_decay=0.5)
    scale_of = {name: scale for _, scale, _, members in groups for name in members}
    assert [scale_of[f"encoders.text.{n}"] for n in ("token", "blocks.1.weight", "norm.bias")] == [
        0.25,
        0.5,
        1,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nn.Linear(2, 2), "encoders.text: Linear has neither a list of modules `blocks` nor a method "
         "`layer_of`, which optimizer.layer_decay needs"),
        (Wrong(), "encoders.text: Wrong.layer_of('token') is 3; expected a number from 0 to 2"),
    ],
)  # fmt: skip
def test_an_encoder_without_layers_is_refused_unless_it_is_frozen(text: nn.Module, said: str) -> None:
    with pytest.raises(UserError) as error:
        groups_of(Model(text), layer_decay=0.5)
    assert str(error.value) == said
    groups_of(Model(text.requires_grad_(False)), layer_decay=0.5)


MODULES = (
    "modules of this model: temperature, encoder.token, encoder.embed, encoder.blocks, encoder.norm, "
    "predictor.token, predictor.embed, predictor.blocks, predictor.norm, encoders.text.token, "
    "encoders.text.embed, encoders.text.blocks, encoders.text.norm"
)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": {"match": "encoders.txt.*"}},
         f"optimizer.groups.a.match (encoders.txt.*) matches no parameter; {MODULES}"),
        ({"a": {"match": ["target_encoder", "x"]}},
         "optimizer.groups.a.match (target_encoder, x) matches 9 parameters, and none of them is trained"),
        ({"a": {"match": "encoder"}, "b": {"match": "*.token"}, "c": {"match": "encoder.token"}},
         "optimizer.groups.c.match (encoder.token): all that it matches stands in a group before it: a"),
        ({"a": {"match": "*", "frozen": True}},
         "nothing is left to train: no parameter of the model takes a gradient"),
    ],
)  # fmt: skip
def test_a_group_without_a_parameter_is_a_line(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        groups_of(Model(), groups=groups)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a-b": {"match": "x"}}, "names of letters, digits and underscores, which 'a-b' is not"),
        ({"a": {}}, "setting 'optimizer.groups.a.match' is required: Names of parameters"),
        ({"a": {"match": []}}, "setting 'optimizer.groups.a.match' is []; expected"),
        ({"a": {"match": ""}}, "setting 'optimizer.groups.a.match' is ''; expected"),
        ({"a": {"match": "x", "lr": 1}}, "unknown setting 'optimizer.groups.a.lr'; known: frozen, lr_scale,"),
        ({"a": {"match": "x", "lr_scale": 0}}, "'optimizer.groups.a.lr_scale' is 0; expected a number above"),
        ({"a": {"match": "x", "weight_decay": -1}}, "expected a number from 0"),
        ({"a": {"match": "x", "frozen": True, "lr_scale": 2}},
         "expected neither lr_scale nor weight_decay beside frozen = true"),
        ({"a": 3}, "'optimizer.groups.a' is 3; expected a table of settings"),
    ],
)  # fmt: skip
def test_a_group_that_is_written_wrong_is_a_line(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        settings(groups=groups)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_without_groups_there_are_the_two_of_always(tiny_recipe: Path) -> None:
    step = training(tiny_recipe)
    assert [group["fixed_decay"] for group in step.optimizer.param_groups] == [None, 0.0]
    assert list(step.optimizer.state_dict()["param_groups"][0]["params"])[:2] == [0, 1]


def test_the_rates_reach_the_optimizer_and_what_differs_is_logged(tiny_recipe: Path) -> None:
    step = training(
        tiny_recipe, "optimizer.warmup_steps=0", "optimizer.final_weight_decay=0.4",
        "optimizer.groups.slow.match=predictor", "optimizer.groups.slow.lr_scale=0.05",
        "optimizer.groups.plain.match=encoder.norm",
        "optimizer.groups.light.match=encoder.patch_embed", "optimizer.groups.light.weight_decay=0",
    )  # fmt: skip
    for _ in range(2):
        step_once(step)
    lr, decay = float(step.logged["lr"]), float(step.logged["weight_decay"])
    assert step.logged["lr/slow"] == lr * 0.05
    assert step.logged["weight_decay/light"] == 0
    differing = {"lr/slow", "weight_decay/light"}
    assert {name for name in step.logged if "/" in name} == differing
    rates = {(g["group"], g["weight_decay"]): g["lr"] for g in step.optimizer.param_groups}
    assert rates == {
        ("", decay): lr, ("", 0.0): lr, ("slow", decay): lr * 0.05, ("slow", 0.0): lr * 0.05,
        ("plain", 0.0): lr, ("light", 0.0): lr,
    }  # fmt: skip


def test_a_frozen_group_stays_and_the_rest_trains(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "optimizer.groups.e.match=encoder", "optimizer.groups.e.frozen=true")
    before = weights(step)
    for _ in range(2):
        step_once(step)
    after = weights(step)
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved == {"predictor"}
    assert list(step.clip_parts["all"]) == [p for p in step.model.parameters() if p.requires_grad]


def test_freezing_twice_is_freezing_once() -> None:
    model, frozen = Model(), settings(groups={"a": {"match": "encoder", "frozen": True}})
    freeze_groups(model, frozen)
    freeze_groups(model, frozen)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    names = {name for group in parameter_groups(model, frozen) for name in group["names"]}
    assert not any(name.startswith("encoder.") for name in names)


def test_named_encoders_are_parts_whose_gradients_are_clipped_apart() -> None:
    model = Model()
    model.predictor.tied = model.encoders["text"]
    parts = clip_parts(model, "by_part")
    assert list(parts) == ["others", "encoder", "predictor"]
    del model.predictor.tied
    parts = clip_parts(model, "by_part")
    assert list(parts) == ["others", "encoder", "predictor", "encoders.text"]
    assert {len(parts[name]) for name in parts if name != "others"} == {9}


def test_groups_of_a_recipe_survive_being_written(tiny_recipe: Path, tmp_path: Path) -> None:
    overrides = (
        'optimizer.groups.b={match=["encoder.*", "*.bias"], lr_scale=0.5}',
        "optimizer.groups.a={match='predictor.norm', frozen=true}",
    )
    recipe = load_recipe(tiny_recipe, *overrides)
    path = tmp_path / "written.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    again = load_recipe(path)
    assert again.optimizer == recipe.optimizer
    assert list(again.optimizer.groups) == ["b", "a"]


def test_the_command_prints_the_groups(jepa, tiny_recipe: Path) -> None:
    words = ["optimizer.groups.p={match='predictor', frozen=true}", "optimizer.final_weight_decay=0.4"]
    words += ["optimizer.groups.n={match='encoder.norm', lr_scale=0.5}"]
    said = jepa("recipes", "show", tiny_recipe, "--groups", *words).out.splitlines()
    cells = [line.split() for line in said]
    assert cells[0] == ["group", "match", "tensors", "parameters", "lr", "scale", "weight", "decay"]
    assert cells[1][0] == "(rest)"
    assert cells[1][3:] == ["1", "0.04", "→", "0.4"]
    assert ["n", "encoder.norm", "2", "64", "0.5", "0"] in cells
    assert all(cell[-1] == "frozen" for cell in cells if cell[0] == "p")
    facts = json.loads(jepa("recipes", "show", tiny_recipe, "--groups", "--json", *words).out)
    assert facts["optimizer"] == "adamw"
    assert facts["groups"][0]["weight_decay"] == [0.04, 0.4]
    count = sum(p.numel() for p in build_model(load_recipe(tiny_recipe)).parameters() if p.requires_grad)
    assert sum(group["parameters"] for group in facts["groups"]) == count
