"""The optimizer's groups: which parameters have which learning rate and weight decay.

A parameter belongs to the recipe's first group that matches its name, else to the rest; a tied one goes by
its first name. Groups are split by layer (`optimizer.layer_decay`), and once more: biases and everything
one-dimensional have no weight decay (the release of I-JEPA has four groups, two of them without decay; two
suffice where encoder and predictor share the learning rate).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from jepa_core.errors import UserError
from jepa_core.nn.layers import number_layers
from jepa_core.settings.optimizer import GroupSettings, OptimizerSettings


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and one weight decay."""

    name: str
    """The recipe's group; "" for what none matches."""
    lr_scale: float
    """Factor on the learning rate: of the group, times that of the layer."""
    fixed_decay: float | None
    """Weight decay that stays; None: that of the schedule."""
    frozen: bool
    parameters: dict[str, nn.Parameter]
    """By their names in the model."""

    def to_torch(self) -> dict[str, Any]:
        """As torch's optimizers take it, with the entries that `optimizers.base.Optimizer` speaks of."""
        return {
            "params": list(self.parameters.values()),
            "names": list(self.parameters),
            "group": self.name,
            "lr_scale": self.lr_scale,
            "fixed_decay": self.fixed_decay,
        }


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """The groups for a torch optimizer: every trainable parameter in exactly one of them.

    Without groups in the recipe there are two, with decay and without. Raises UserError as `group_parameters`
    does.
    """
    return [group.to_torch() for group in group_parameters(model, settings) if not group.frozen]


def freeze_groups(model: nn.Module, settings: OptimizerSettings) -> None:
    """Takes the gradient from the parameters of groups that the recipe freezes."""
    for group in group_parameters(model, settings):
        for parameter in group.parameters.values() if group.frozen else ():
            parameter.requires_grad_(False)


def group_parameters(model: nn.Module, settings: OptimizerSettings) -> list[ParameterGroup]:
    """All groups: those of the rest, then the recipe's in their order, each by falling rate, biases last.

    Raises UserError for a group without a parameter, an encoder without layers where they are asked for, and
    a model of which nothing is trained.
    """
    scales = _scales_by_layer(model, settings.layer_decay)
    members: dict[tuple[str, float, bool], dict[str, nn.Parameter]] = {
        ("", 1.0, True): {},
        ("", 1.0, False): {},
    }
    for name, parameter in model.named_parameters():
        group = next((key for key, group in settings.groups.items() if group.matches(name)), "")
        if parameter.requires_grad or (group and settings.groups[group].frozen):
            decays = parameter.ndim > 1 and not name.endswith("bias")
            members.setdefault((group, scales.get(name, 1.0), decays), {})[name] = parameter
    _check_groups(model, settings, {key[0] for key in members})
    order = ["", *settings.groups]
    keys = sorted(members, key=lambda key: (order.index(key[0]), -key[1], not key[2]))
    groups = [_group(key, members[key], settings) for key in keys]
    if not any(group.parameters for group in groups if not group.frozen):
        raise UserError("nothing is left to train: no parameter of the model takes a gradient")
    return groups


def describe_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Each group in plain values: `weight_decay` is one number, or first and last where a schedule moves it.

    Raises UserError as `group_parameters` does.
    """
    final = settings.final_weight_decay
    schedule = [settings.weight_decay] if final is None else [settings.weight_decay, final]
    return [
        {
            "group": group.name,
            "match": list(settings.groups[group.name].patterns) if group.name else [],
            "frozen": group.frozen,
            "tensors": len(group.parameters),
            "parameters": sum(parameter.numel() for parameter in group.parameters.values()),
            "lr_scale": group.lr_scale,
            "weight_decay": schedule if group.fixed_decay is None else [group.fixed_decay],
        }
        for group in group_parameters(model, settings)
        if group.parameters
    ]


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The model's encoder, predictor and named encoders, `encoders.NAME`, by their names."""
    children = dict(model.named_children())
    parts = {name: children[name] for name in ("encoder", "predictor") if name in children}
    named = children["encoders"].named_children() if "encoders" in children else ()
    return parts | {f"encoders.{name}": encoder for name, encoder in named}


def _group(
    key: tuple[str, float, bool], parameters: dict[str, nn.Parameter], settings: OptimizerSettings
) -> ParameterGroup:
    name, scale, decays = key
    own = settings.groups.get(name)
    if own is None:
        return ParameterGroup(name, scale, None if decays else 0.0, False, parameters)
    fixed_decay = own.weight_decay if decays else 0.0
    return ParameterGroup(name, own.lr_scale * scale, fixed_decay, own.frozen, parameters)


def _scales_by_layer(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """The factor of each encoder parameter's layer, by its name in the model; empty without layer decay."""
    if layer_decay is None:
        return {}
    scales: dict[str, float] = {}
    for part, encoder in parts_of(model).items():
        if part == "predictor" or not any(p.requires_grad for p in encoder.parameters()):
            continue
        try:
            layers, depth = number_layers(encoder)
        except UserError as error:
            raise UserError(f"{part}: {error}") from None
        scales |= {f"{part}.{name}": layer_decay ** (depth + 1 - layer) for name, layer in layers.items()}
    return scales


def _check_groups(model: nn.Module, settings: OptimizerSettings, used: set[str]) -> None:
    """Raises UserError for a group of the recipe that has no parameter, saying why."""
    for name, group in settings.groups.items():
        if name in used:
            continue
        where = f"optimizer.groups.{name}.match ({', '.join(group.patterns)})"
        matching = {key: p for key, p in model.named_parameters() if group.matches(key)}
        if not matching:
            modules = ", ".join(_modules(model))
            raise UserError(f"{where} matches no parameter; modules of this model: {modules}")
        if not any(parameter.requires_grad for parameter in matching.values()):
            raise UserError(f"{where} matches {len(matching)} parameters, and none of them is trained")
        others = dict.fromkeys(_first_group(key, settings.groups) for key in matching)
        raise UserError(f"{where}: all that it matches stands in a group before it: {', '.join(others)}")


def _first_group(name: str, groups: dict[str, GroupSettings]) -> str:
    return next(key for key, group in groups.items() if group.matches(name))


def _modules(model: nn.Module) -> Iterator[str]:
    """The parts of the model with trainable parameters, and what each consists of."""
    names = (name.split(".") for name, parameter in model.named_parameters() if parameter.requires_grad)
    depths = ((3 if parts[0] == "encoders" else 2, parts) for parts in names)
    yield from dict.fromkeys(".".join(parts[: min(depth, len(parts))]) for depth, parts in depths)
