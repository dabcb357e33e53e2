"""An optimizer's state in a checkpoint: checked against the parameters before anything is taken over.

torch itself checks no shape, and its fused kernels then write out of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.settings.optimizer import OptimizerSettings


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Any, settings: OptimizerSettings) -> None:
    """Takes over what `optimizer.state_dict()` gave for the same parameters, in the same groups and order.

    The groups' settings (learning rate, betas, eps) stay those of this optimizer, but for its counters.
    Raises UserError for a state that does not fit.
    """
    saved_groups, entries = _parts(state)
    ids = [group["params"] for group in saved_groups]
    _check_groups(optimizer, saved_groups)
    flat = list(chain.from_iterable(ids))
    if flat != list(range(len(flat))) or not entries.keys() <= set(flat):
        raise UserError(f"the optimizer's state does not number its parameters from 0 to {len(flat) - 1}")
    parameters = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    for number, entry in entries.items():
        where = f"the optimizer's state of parameter {number}"
        if settings.state_entries:
            _check_form(where, entry, parameters[number], optimizer, settings.state_entries)
        else:
            _check_sizes(where, entry, parameters[number])
    groups = [
        {**own, "params": saved["params"], **_counters(saved, settings)}
        for own, saved in zip(optimizer.param_groups, saved_groups, strict=True)
    ]
    more = {key: state[key] for key in optimizer.state_dict() if key in state}
    optimizer.load_state_dict({**more, "state": entries, "param_groups": groups})


def _parts(state: Any) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """The groups and the entries of a state. Raises UserError where it has none."""
    try:
        groups = [dict(group) for group in state["param_groups"]]
        for group in groups:
            len(group["params"])
        return groups, dict(state["state"])
    except (TypeError, KeyError, ValueError, IndexError):
        raise UserError("the optimizer's state has no groups and entries") from None


def _check_groups(optimizer: torch.optim.Optimizer, saved: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError for groups of other sizes, or of other parameters (states of old have no names)."""
    sizes = [len(group["params"]) for group in saved]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != expected:
        raise UserError(f"the optimizer's state is of groups of {sizes} parameters; this one has {expected}")
    for number, (own, before) in enumerate(zip(optimizer.param_groups, saved, strict=True)):
        names = before.get("names", own["names"])
        if names != own["names"]:
            pairs = zip(names, own["names"], strict=False) if isinstance(names, list) else ()
            first = next((pair for pair in pairs if pair[0] != pair[1]), (names, own["names"]))
            saved_name, own_name = (f"{name!r:.60}" for name in first)
            raise UserError(
                f"the optimizer's state has {saved_name} in group {number}, where this one has {own_name}"
            )


def _counters(saved: Mapping[str, Any], settings: OptimizerSettings) -> dict[str, Any]:
    """The entries of a saved group that count. Raises UserError for one that is no number."""
    counters = {key: saved[key] for key in sorted(settings.counters) if key in saved}
    for key, value in counters.items():
        if not _is_number(value):
            raise UserError(f"the optimizer's state counts {value!r:.30} as {key}; expected a number")
    return counters


def _is_number(value: Any) -> bool:
    """Whether it is a finite number, or a tensor on the CPU that holds one number."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.device.type == "cpu" and value.layout == torch.strided
    return isinstance(value, int | float) and math.isfinite(value)


def _check_form(
    where: str,
    entry: Any,
    parameter: Tensor,
    optimizer: torch.optim.Optimizer,
    forms: Sequence[frozenset[str]],
) -> None:
    """Raises UserError unless the entry has one of these forms, on the CPU."""
    if not isinstance(entry, dict) or not any(entry.keys() == form for form in forms):
        listed = " or ".join(
            ", ".join(sorted(form, key=lambda key: (key != "step", key))) for form in forms if form
        )
        raise UserError(f"{where} is not {type(optimizer).__name__}'s; expected {listed}")
    for name, value in entry.items():
        if name == "step":
            step = value
            if (
                not isinstance(step, Tensor)
                or step.numel() != 1
                or not step.is_floating_point()
                or step.is_meta
            ):
                raise UserError(f"{where} has no number of steps")
            continue
        _check_tensor(f"{where}: {name}", value)
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            read, expected = ((tuple(x.shape), str(x.dtype)) for x in (value, parameter))
            raise UserError(f"{where}: {name} is {read[1]} {list(read[0])}, the parameter {expected[1]} "
                            f"{list(expected[0])}")  # fmt: skip
        if not value.is_contiguous() and value.stride() != parameter.stride():
            raise UserError(f"{where}: {name} does not lie in one piece")


def _check_tensor(what: str, value: Any) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise UserError(f"{what} is no tensor")


def _check_sizes(where: str, entry: Any, parameter: Tensor) -> None:
    """Raises UserError unless the entry holds numbers, tensors that fit the parameter, and lists of such."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {entry!r:.30}; expected a table of tensors and numbers")
    for name, value in entry.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            if item is None or _is_number(item):
                continue
            _check_tensor(f"{where}: {name}", item)
            if not set(item.shape) <= {1, *parameter.shape}:
                raise UserError(
                    f"{where}: {name} has the shape {list(item.shape)}, the parameter {list(parameter.shape)}"
                )
