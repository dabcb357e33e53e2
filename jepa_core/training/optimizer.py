"""The optimizer's parameter groups, the check that they hold every trainable parameter once, and its state.

Biases and everything one-dimensional have no weight decay (the release has four groups, two of them without
decay; two suffice where encoder and predictor share the learning rate).
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

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


def clip_parts(model: nn.Module, clip: str) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters whose gradients `optimizer.clip` limits together, by name.

    `joint`: all of them. `by_part`: encoder, predictor, and the others where there are any; a parameter that
    is tied between two parts counts to the first.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if clip == "joint":
        return {"all": trainable}
    owners: dict[int, str] = {}
    for name in ("encoder", "predictor"):
        module = getattr(model, name)
        for parameter in module.parameters() if module is not None else ():
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


MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, besides `step`: tensors of the parameter's shape and type."""


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Takes over the moments that `optimizer.state_dict()` gave for the same parameters, in the same order.

    The groups' settings (learning rate, betas, eps) stay those of this optimizer. torch itself checks no
    shape, and its fused kernels then write out of bounds. Raises UserError for a state that does not fit.
    """
    try:
        ids = [group["params"] for group in state["param_groups"]]
        entries = dict(state["state"])
        sizes = [len(group) for group in ids]
    except (TypeError, KeyError, ValueError, IndexError):
        raise UserError("the optimizer's state has no groups and entries") from None
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != expected:
        raise UserError(f"the optimizer's state is of groups of {sizes} parameters; this one has {expected}")
    flat = list(chain.from_iterable(ids))
    if flat != list(range(len(flat))) or not entries.keys() <= set(flat):
        raise UserError(f"the optimizer's state does not number its parameters from 0 to {len(flat) - 1}")
    parameters = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    for number, entry in entries.items():
        _check_entry(number, entry, parameters[number])
    groups = [
        {key: value for key, value in group.items() if key != "params"} | {"params": numbers}
        for group, numbers in zip(optimizer.param_groups, ids, strict=True)
    ]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _check_entry(number: int, entry: Any, parameter: Tensor) -> None:
    """Raises UserError unless the entry is AdamW's state of this parameter, on the CPU."""
    where = f"the optimizer's state of parameter {number}"
    if not isinstance(entry, dict) or entry.keys() != {"step", *MOMENTS}:
        raise UserError(f"{where} is not AdamW's; expected step, {', '.join(MOMENTS)}")
    step = entry["step"]
    if not isinstance(step, Tensor) or step.numel() != 1 or not step.is_floating_point() or step.is_meta:
        raise UserError(f"{where} has no number of steps")
    for name in MOMENTS:
        moment = entry[name]
        if not isinstance(moment, Tensor) or moment.layout != torch.strided or moment.device.type != "cpu":
            raise UserError(f"{where}: {name} is no tensor")
        if moment.shape != parameter.shape or moment.dtype != parameter.dtype:
            read, expected = ((tuple(x.shape), str(x.dtype)) for x in (moment, parameter))
            raise UserError(f"{where}: {name} is {read[1]} {list(read[0])}, the parameter {expected[1]} "
                            f"{list(expected[0])}")  # fmt: skip
        if not moment.is_contiguous() and moment.stride() != parameter.stride():
            raise UserError(f"{where}: {name} does not lie in one piece")
