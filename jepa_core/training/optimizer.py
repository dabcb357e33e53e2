"""The optimizer's parameter groups, and the check that they hold every trainable parameter once.

Biases and everything one-dimensional have no weight decay (the release has four groups, two of them without
decay; two suffice where encoder and predictor share the learning rate).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jepa_core.errors import UserError


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups for AdamW: with decay, and without (biases and 1-D tensors).

    Every trainable parameter is in exactly one group; a tied one counts once.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim <= 1 or name.endswith("bias")].append(parameter)
    return [{"params": groups[0], "decay": True}, {"params": groups[1], "decay": False}]


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
