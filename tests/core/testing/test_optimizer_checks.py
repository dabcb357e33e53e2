"""Every property that `jepa_core.testing` asks of optimizers is broken once on purpose, and is then named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_core import testing
from jepa_core.optimizers.adamw import AdamW
from jepa_core.optimizers.base import fusible
from jepa_core.optimizers.sgd import SGD
from jepa_core.settings import OptimizerSettings
from jepa_core.testing import Failed, examine, optimizers
from jepa_core.testing.outcomes import demand

BROKEN: dict[str, type] = {}


def breaks(prop: str):
    """Notes a class as one that breaks this property."""

    def note(component: type) -> type:
        component.__doc__ = "Broken on purpose."
        BROKEN[prop] = component
        return component

    return note


class Plain:
    """Steps against the gradient; what a broken optimizer changes."""

    Config = OptimizerSettings
    steps: Any = None

    def __init__(self, config: OptimizerSettings) -> None:
        self.config = config

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return self.steps(groups)


@breaks("everything once")
class LeavesVectors(SGD):
    def make(self, groups):
        return super().make([group for group in groups if group["fixed_decay"] is None])


@breaks("lowers a loss")
class Ascends(SGD):
    def make(self, groups):
        return torch.optim.SGD(groups, lr=1.0, maximize=True)


class OwnRate(torch.optim.Optimizer):
    """Takes no notice of the rate in its groups."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=0.01)


@breaks("rate of each step")
class IgnoresTheRate(Plain):
    steps = OwnRate


class FirstRate(OwnRate):
    """Takes the rate of its first group for all."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


@breaks("rate of a group")
class OneRateForAll(Plain):
    steps = FirstRate


@breaks("decay of a group")
class NoDecay(Plain):
    steps = FirstRate


class OwnCount(OwnRate):
    """Counts its steps where no checkpoint looks."""

    count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group["lr"] / self.count)


@breaks("goes on")
class CountsForItself(Plain):
    steps = OwnCount


class Noise(OwnRate):
    """Adds noise to its steps."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(torch.randn_like(parameter), alpha=group["lr"])


@breaks("nothing drawn")
class Noisy(Plain):
    steps = Noise


@breaks("rate on the device")
class NotCapturable(AdamW):
    def make(self, groups):
        assert fusible(groups)
        return torch.optim.AdamW(groups, lr=self.config.lr, foreach=False, fused=False)


def failing(component: type) -> dict[str, str]:
    return {o.property: o.said for o in examine("optimizer", component) if o.state == "fails"}


@pytest.mark.parametrize("prop", BROKEN)
def test_a_broken_property_is_named(prop: str) -> None:
    component = BROKEN[prop]
    broken = failing(component)
    assert broken.get(prop), broken
    with pytest.raises(Failed, match=f"optimizer {component.__name__}: {prop}: "):
        testing.check_optimizer(component)


def test_every_property_is_broken_once() -> None:
    assert {check.__name__.replace("_", " ") for check in optimizers.CHECKS} == set(BROKEN)


@pytest.mark.parametrize("name", ["timm_lamb", "timm_adopt", "timm_lion", "timm_muon", "timm_adafactorbv"])
def test_timms_conform(name: str) -> None:
    demand(examine("optimizer", name))


def test_one_that_is_not_capturable_is_not_asked_for_it() -> None:
    states = {o.property: o.state for o in examine("optimizer", "sgd")}
    assert states.pop("rate on the device") == "not asked"
    assert set(states.values()) == {"holds"}
