"""Checks of the optimizer that a recipe names, and the parts whose gradients are clipped together."""

from __future__ import annotations

import torch
from torch import nn

from jepa_core.errors import UserError
from jepa_core.optimizers.base import ENTRIES
from jepa_core.training.parameter_groups import parts_of


def clip_parts(model: nn.Module, clip: str) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters whose gradients `optimizer.clip` limits together, by name.

    `joint`: all of them. `by_part`: encoder, predictor, each named encoder, and the others where there are
    any; a parameter that is tied between two parts counts to the first.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if clip == "joint":
        return {"all": trainable}
    owners: dict[int, str] = {}
    for name, module in parts_of(model).items():
        for parameter in module.parameters():
            owners.setdefault(id(parameter), name)
    parts: dict[str, list[nn.Parameter]] = {}
    for parameter in trainable:
        parts.setdefault(owners.get(id(parameter), "others"), []).append(parameter)
    return parts


def check_coverage(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises UserError unless each trainable parameter is in exactly one group of the optimizer."""
    seen: dict[int, int] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    for name, parameter in model.named_parameters():
        times = seen.get(id(parameter), 0)
        if parameter.requires_grad and times != 1:
            raise UserError(f"parameter {name!r} stands {times} times in the optimizer; expected once")


def check_entries(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Raises UserError where the optimizer `name` has dropped what the engine wrote into its groups."""
    for number, group in enumerate(optimizer.param_groups):
        missing = [entry for entry in ENTRIES if entry not in group]
        if missing or len(group["names"]) != len(group["params"]):
            lost = f"no entry {missing[0]!r}" if missing else "other names than parameters"
            raise UserError(
                f"optimizer {name!r}: its group {number} has {lost}; an optimizer keeps the entries "
                f"{', '.join(ENTRIES)} of the groups that it is given"
            )
