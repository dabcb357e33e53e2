"""A batch as a loader makes it: named views of samples, a condition, side information, targets and labels.

Axes: B samples, V crops of each, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

Device = torch.device | str


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of one micro-batch.

    `views`: named inputs, `{"image": [B, 3, H, W]}` for the plain case; V crops of each image under one
    name are [B, V, 3, H, W]; sequences of different lengths are a `Packed`. `condition`: named actions, text,
    … for the predictor, None without any. `side`: named values that maskers and variants may use. `targets`:
    named values that a loss or an evaluation may measure against, such as states. `labels` are for probes
    only. `step`: the optimizer step it serves, from 0.
    """

    views: Mapping[str, Any]
    condition: Any = None
    side: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    step: int = 0
    targets: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Batch | Tensor) -> Batch:
        """A batch as it is, or a plain tensor of images [B, C, H, W] as its only view."""
        if isinstance(value, Batch):
            return value
        if isinstance(value, Tensor):
            return cls({"image": value})
        raise TypeError(f"a batch is a jepa_core.Batch or a tensor [B, C, H, W]; got {type(value).__name__}")

    @property
    def batch_size(self) -> int:
        """B of the first view."""
        first = next(iter(self.views.values()))
        return first.shape[0] if isinstance(first, Tensor) else first.batch_size

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        first = next(iter(self.views.values()))
        return first.device if isinstance(first, Tensor) else first.values.device

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with each of its tensors changed, at any depth."""
        return replace(
            self,
            views=map_tensors(self.views, change),
            condition=map_tensors(self.condition, change),
            side=map_tensors(self.side, change),
            labels=map_tensors(self.labels, change),
            targets=map_tensors(self.targets, change),
        )

    def to(self, device: Device, non_blocking: bool = False) -> Batch:
        """The batch with all its tensors on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch with all its tensors in page-locked memory; called by torch's DataLoader."""
        return self.map(lambda tensor: tensor.pin_memory())


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with each tensor in it changed: in mappings, lists, tuples and dataclasses, at any depth.

    What else it holds stays as it is.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(map_tensors(inner, change) for inner in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(inner, change) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        named = {entry.name: map_tensors(vars(value)[entry.name], change) for entry in fields(value)}
        return replace(value, **named)
    return value
