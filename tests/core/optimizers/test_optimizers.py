"""The optimizers of core: what each makes of the engine's groups, and what of its settings it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_core import UserError, build_model, load_recipe, plugins, sample_masks, training_step
from jepa_core.optimizers import muon as muon_file
from jepa_core.optimizers.base import Optimizer
from jepa_core.settings.parse import parse
from jepa_core.training.parameter_groups import parameter_groups
from jepa_core.training.step import TrainingStep


def make(name: str, module: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    component = plugins.registry().catalogue("optimizer").find(name)
    config = parse(component.Config, {"name": name, **settings}, "optimizer")
    config.check()
    optimizer: torch.optim.Optimizer = component(config).make(parameter_groups(module, config))
    return optimizer


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, "optimizer.warmup_steps=0", *overrides)
    return training_step(build_model(resolved), resolved)


def run(step: TrainingStep, until: int) -> list[float]:
    losses = []
    while step.done < until:
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step.done))
        losses.append(step(images, sample_masks(step.model, 8, 0, step.done)).loss.item())
    return losses


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "timm_lamb"])
def test_each_keeps_the_protocol(name: str) -> None:
    component = plugins.registry().catalogue("optimizer").find(name)
    assert isinstance(component(component.Config(name=name)), Optimizer)


def test_without_a_name_it_is_adamw_as_it_was(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "optimizer.betas=[0.8, 0.9]", "optimizer.eps=1e-6")
    assert type(step.optimizer) is torch.optim.AdamW
    settings = [(g["betas"], g["eps"], g["fused"]) for g in step.optimizer.param_groups]
    assert settings == [((0.8, 0.9), 1e-6, True)] * 2
    plain = training(tiny_recipe, "optimizer.betas=[0.8, 0.9]", "optimizer.eps=1e-6")
    decays, spared = (group["params"] for group in plain.optimizer.param_groups)
    plain.optimizer = torch.optim.AdamW(
        [{"params": decays, "lr_scale": 1.0, "fixed_decay": None},
         {"params": spared, "lr_scale": 1.0, "fixed_decay": 0.0}],
        lr=1e-3, betas=(0.8, 0.9), eps=1e-6, fused=True,
    )  # fmt: skip
    assert run(step, 3) == run(plain, 3)


def test_sgd_steps_as_its_formula_says() -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = make("sgd", module, lr=0.1, momentum=0.5, weight_decay=0.2)
    value, velocity = module.weight.detach().clone(), torch.zeros(1, 2)
    for _ in range(3):
        module.weight.grad = torch.ones(1, 2)
        optimizer.step()
        velocity = 0.5 * velocity + 1 + 0.2 * value
        value = value - 0.1 * velocity
    torch.testing.assert_close(module.weight.detach(), value)


class Blocks(nn.Module):
    """Tables, a convolution, a head, and two blocks of matrices, vectors and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4))
        self.embed, self.patches = nn.Embedding(5, 4), nn.Conv2d(3, 4, 2)
        parts = {"attn": nn.Linear(4, 12), "norm": nn.LayerNorm(4)}
        self.blocks = nn.ModuleList(nn.ModuleDict(parts) for _ in range(1))
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 3)


def names_of(groups: list[dict[str, Any]]) -> set[str]:
    return {name for group in groups for name in group["names"]}


def test_muon_has_the_matrices_in_the_blocks_and_adamw_all_else() -> None:
    module = Blocks()
    optimizer = make("muon", module)
    assert isinstance(optimizer, muon_file.MuonWithAdamW)
    muon, adamw = (names_of(part.param_groups) for part in optimizer.parts)
    assert muon == {"blocks.0.attn.weight"}
    assert muon | adamw == {name for name, _ in module.named_parameters()}
    assert not muon & adamw
    more = make("muon", module, matrices=["*.weight"])
    assert isinstance(more, muon_file.MuonWithAdamW)
    assert names_of(more.parts[0].param_groups) == {
        "blocks.0.attn.weight", "embed.weight", "layers.0.weight", "layers.1.weight", "head.weight",
    }  # fmt: skip


def test_muon_takes_orthogonal_steps_of_adamws_size() -> None:
    module = Blocks()
    optimizer = make("muon", module, lr=0.1, weight_decay=0)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    before = module.blocks[0]["attn"].weight.detach().clone()  # type: ignore[index]
    optimizer.step()
    moved = module.blocks[0]["attn"].weight.detach() - before  # type: ignore[index]
    singular = torch.linalg.svdvals(moved) / (0.1 * 0.2 * 12**0.5)
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.3


def test_muon_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(UserError) as error:
        make("muon", nn.Linear(3, 3))
    assert str(error.value) == ("optimizer.matrices (*.[0-9]*.*.weight) matches no two-dimensional parameter")


def test_muon_alone_needs_no_adamw() -> None:
    module = nn.Linear(3, 3, bias=False)
    optimizer = make("muon", module, matrices=["weight"])
    module.weight.grad = torch.ones(3, 3)
    before = module.weight.detach().clone()
    assert optimizer.step(lambda: 2.0) == 2.0
    assert not torch.equal(module.weight, before)


def test_where_torch_has_no_muon_it_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa_core import builtin

    assert "muon" in builtin.jepa_optimizers()
    monkeypatch.delattr(torch.optim, "Muon")
    assert "muon" not in builtin.jepa_optimizers()


@pytest.mark.parametrize("name", ["muon", "sgd", "timm_adopt"])
def test_others_train_a_model_with_groups_and_layer_decay(tiny_recipe: Path, name: str) -> None:
    overrides = (
        f"optimizer.name={name}", "optimizer.layer_decay=0.8", "optimizer.groups.p.match=predictor",
        "optimizer.groups.p.lr_scale=0.5", "target_update.name=frozen", "train.steps=20",
    )  # fmt: skip
    step = training(tiny_recipe, *overrides, "optimizer.lr=5e-3")
    plan, images = sample_masks(step.model, 8), torch.randn(8, 3, 16, 16)
    losses = [step(images, plan).loss.item() for _ in range(20)]
    assert losses[-1] < 0.95 * losses[0]


def test_timm_gets_its_arguments_and_the_groups() -> None:
    module = Blocks()
    optimizer = make("timm_lamb", module, arguments={"betas": [0.8, 0.9], "max_grad_norm": 2.0})
    assert type(optimizer).__name__ == "Lamb"
    assert [group["betas"] for group in optimizer.param_groups] == [(0.8, 0.9)] * 2
    assert names_of(optimizer.param_groups) == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("timm_lam", {}, "optimizer 'timm_lam': timm has no optimizer 'lam'. Did you mean 'lamb'?"),
        (
            "timm_lamb",
            {"arguments": {"beta": 1}},
            "unknown argument of timm_lamb 'beta'; known: always_adapt,",
        ),
        ("timm_lamb", {"arguments": {"lr": 1}}, "optimizer.arguments.lr: set optimizer.lr instead"),
        (
            "timm_lamb",
            {"arguments": {"betas": 1}},
            "'optimizer.arguments.betas' is 1; expected a list of 2 num",
        ),
        ("timm_lamb", {"arguments": {"eps": True}}, "'optimizer.arguments.eps' is True; expected a number"),
        ("timm_lamb", {"arguments": {"trust_clip": 1}}, "trust_clip' is 1; expected true or false"),
        (
            "timm_madgrad",
            {"arguments": {"momentum": 2}},
            "timm cannot make 'timm_madgrad' with {'momentum': 2}: ",
        ),
        ("timm_adahessian", {}, "optimizer 'timm_adahessian' needs second derivatives"),
        ("timm_fusedadam", {}, "optimizer 'timm_fusedadam' needs apex, which is not used here"),
        ("timm_kron", {}, "draws random numbers that no checkpoint holds; set optimizer.arguments.determ"),
        ("timm_lookahead_lamb", {}, "timm has no optimizer 'lookahead_lamb'"),
        ("sgd", {"nesterov": True, "momentum": 0}, "optimizer.nesterov needs an optimizer.momentum above 0"),
        ("sgd", {"betas": [0.9, 0.9]}, "unknown setting 'optimizer.betas'; known: clip, "),
        ("lamb", {}, "unknown optimizer 'lamb'; known: adamw, muon, sgd, timm_*."),
    ],
)
def test_what_cannot_be_used_is_a_line(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make(name, Blocks(), **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_kron_that_draws_nothing_is_taken() -> None:
    make("timm_kron", Blocks(), arguments={"deterministic": True})


class Renames:
    """An optimizer that drops what the engine wrote into its groups."""

    Config = plugins.SETTINGS["optimizer"]

    def __init__(self, config: Any) -> None:
        self.config = config

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        params: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        return torch.optim.SGD(params, lr=0.1)


def test_an_optimizer_that_loses_the_groups_is_refused(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = plugins.registry().catalogue("optimizer")
    monkeypatch.setitem(catalogue.classes, "renames", Renames)  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        training(tiny_recipe, "optimizer=renames")
    assert str(error.value) == (
        "optimizer 'renames': its group 0 has no entry 'names'; an optimizer keeps the entries names, group, "
        "lr_scale, fixed_decay of the groups that it is given"
    )
