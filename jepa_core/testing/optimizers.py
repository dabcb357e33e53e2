"""Checks of optimizers (`optimizers.base.Optimizer`)."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.settings.optimizer import GroupSettings, OptimizerSettings
from jepa_core.testing.outcomes import NotAsked, require, require_same, untouched_randomness
from jepa_core.testing.subject import Subject
from jepa_core.training.optimizer import check_coverage, check_entries
from jepa_core.training.optimizer_state import load_optimizer_state
from jepa_core.training.parameter_groups import parameter_groups

STEPS, WIDTH = 6, 8


class Tower(nn.Module):
    """An embedding, two blocks and a head, named as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(OrderedDict(fc=nn.Linear(WIDTH, WIDTH), norm=nn.LayerNorm(WIDTH), tanh=nn.Tanh()))
            for _ in range(2)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.embed(inputs)
        for block in self.blocks:
            output = output + block(output)
        result: Tensor = self.head(output)
        return result


class Net(nn.Module):
    """Two towers, one after the other."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.predictor = Tower(), Tower()

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.predictor(self.encoder(inputs))
        return output


@dataclass
class Training:
    """An optimizer on a small net, with a constant learning rate and weight decay."""

    net: Net
    optimizer: torch.optim.Optimizer
    settings: OptimizerSettings

    def step(self, lr: float, decay: float = 0.0, gradient: bool = True) -> float:
        """One step on a fixed batch; the loss before it. `gradient`: else all gradients are 0."""
        draw = torch.Generator().manual_seed(0)
        inputs, wanted = torch.randn(2, 32, WIDTH, generator=draw)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = decay if group["fixed_decay"] is None else group["fixed_decay"]
        loss = (self.net(inputs) - wanted).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in () if gradient else self.net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the net's parameters."""
        return {name: p.detach().clone() for name, p in self.net.named_parameters()}


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer, and small nets for it."""

    subject: Subject

    def training(self, seed: int = 0, **groups: GroupSettings) -> Training:
        """A new one on a new net, with these groups."""
        settings: Any = self.subject.config.model_copy(update={"groups": groups, "layer_decay": None})
        net = Net(seed)
        optimizer = self.subject.component(settings).make(parameter_groups(net, settings))
        return Training(net, optimizer, settings)

    @property
    def lr(self) -> float:
        """The learning rate of its settings."""
        lr: float = self.subject.config.lr  # type: ignore[attr-defined]
        return lr


def everything_once(case: OptimizerCase) -> None:
    """Every parameter is in one of its groups, and the groups keep what the engine wrote into them."""
    training = case.training(predictor=GroupSettings(match="predictor", lr_scale=0.5))
    check_coverage(training.net, training.optimizer)
    check_entries(training.optimizer, case.subject.name)
    for group in training.optimizer.param_groups:
        names = {id(parameter): name for name, parameter in training.net.named_parameters()}
        actual = [names[id(parameter)] for parameter in group["params"]]
        require(
            actual == group["names"], f"a group's names are {group['names'][:2]}, its parameters {actual[:2]}"
        )
        scale = 0.5 if actual[0].startswith("predictor") else 1.0
        require(group["lr_scale"] == scale, f"{actual[0]} has the rate of another group")


def lowers_a_loss(case: OptimizerCase) -> None:
    """Steps on one batch lower its loss."""
    training = case.training()
    losses = [training.step(case.lr) for _ in range(10 * STEPS)]
    require(
        losses[-1] < losses[0], f"{10 * STEPS} steps take the loss from {losses[0]:.4g} to {losses[-1]:.4g}"
    )


def rate_of_each_step(case: OptimizerCase) -> None:
    """It takes the learning rate that stands in its groups: at 0 nothing moves, then everything does."""
    training = case.training()
    before = training.tensors()
    training.step(0.0)
    moved = _moved(before, training.tensors())
    require(not moved, f"at a learning rate of 0 these move: {', '.join(moved[:3])}")
    for _ in range(2):  # some take no step before they have seen two gradients
        training.step(case.lr)
    still = before.keys() - set(_moved(before, training.tensors()))
    require(not still, f"these never move: {', '.join(sorted(still)[:3])}")


def rate_of_a_group(case: OptimizerCase) -> None:
    """A group with a thousandth of the learning rate moves far less than it does at the whole rate."""
    whole, slow = case.training(), case.training(slow=GroupSettings(match="encoder", lr_scale=1e-3))
    before = whole.tensors()
    for training in (whole, slow):
        for _ in range(2):
            training.step(case.lr)
    for name in ("encoder.blocks.0.fc.weight", "encoder.head.bias"):
        far, near = (float((t.tensors()[name] - before[name]).norm()) for t in (whole, slow))
        require(
            near < 0.1 * far,
            f"{name} moves by {near:.2g} at a thousandth of the rate, by {far:.2g} at the whole",
        )


def decay_of_a_group(case: OptimizerCase) -> None:
    """Without gradients a group with weight decay shrinks, and what has none stays as it is."""
    training = case.training(heavy=GroupSettings(match="encoder", weight_decay=0.5))
    before = training.tensors()
    for _ in range(3):
        training.step(case.lr, gradient=False)
    after = training.tensors()
    name = "encoder.blocks.0.fc.weight"
    require(
        float(after[name].norm()) < float(before[name].norm()), "the weight decay of a group does nothing"
    )
    spared = [name for name in before if not name.startswith("encoder") or name.endswith("bias")]
    moved = [name for name in _moved(before, after) if name in spared]
    require(not moved, f"without a gradient and without weight decay these move: {', '.join(moved[:3])}")


def goes_on(case: OptimizerCase) -> None:
    """Its state, saved and loaded into a fresh one, gives bit for bit the steps of one that never stopped."""
    uninterrupted = case.training()
    for number in range(STEPS // 2):
        uninterrupted.step(case.lr / (number + 1), 0.01)
    file = io.BytesIO()
    torch.save((uninterrupted.net.state_dict(), uninterrupted.optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = case.training(seed=1)
    resumed.net.load_state_dict(weights)
    try:
        load_optimizer_state(resumed.optimizer, state, resumed.settings)
    except UserError as error:
        require(False, f"its own state is refused: {error}")
    for _ in range(STEPS):
        for training in (uninterrupted, resumed):
            training.step(case.lr, 0.01)
    expected, actual = uninterrupted.tensors(), resumed.tensors()
    changed = _moved(expected, actual)
    require(not changed, f"after a stop these go other ways: {', '.join(changed[:3])}")


def nothing_drawn(case: OptimizerCase) -> None:
    """Making it and its steps draw from no global randomness."""
    with untouched_randomness():
        training = case.training()
        training.step(case.lr, 0.01)


def rate_on_the_device(case: OptimizerCase) -> None:
    """It takes a learning rate that is a tensor, and leaves out a step with `found_inf` (`capturable`)."""
    if not case.subject.config.capturable:  # type: ignore[attr-defined]
        raise NotAsked("its settings do not say capturable = True")
    plain, other = case.training(), case.training()
    for _ in range(2):
        plain.step(case.lr)
        _step_on_device(other, torch.tensor(case.lr), 0.0)
    for name, value in plain.tensors().items():
        close = torch.allclose(other.tensors()[name], value, rtol=1e-4, atol=1e-7)
        require(close, f"with the learning rate as a tensor {name} goes another way")
    before = other.tensors()
    _step_on_device(other, torch.tensor(case.lr), 1.0)
    require_same(list(other.tensors().values()), list(before.values()), "it takes a step with found_inf = 1")


def _step_on_device(training: Training, lr: Tensor, found_inf: float) -> None:
    training.optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
    draw = torch.Generator().manual_seed(0)
    inputs, wanted = torch.randn(2, 32, WIDTH, generator=draw)
    for group in training.optimizer.param_groups:
        group |= {"lr": lr, "weight_decay": 0.0}
    training.optimizer.zero_grad(set_to_none=True)
    (training.net(inputs) - wanted).square().mean().backward()
    training.optimizer.step()


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that differ."""
    return [name for name, value in before.items() if not torch.equal(after[name], value)]


CHECKS = (
    everything_once,
    lowers_a_loss,
    rate_of_each_step,
    rate_of_a_group,
    decay_of_a_group,
    goes_on,
    nothing_drawn,
    rate_on_the_device,
)
