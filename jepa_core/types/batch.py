"""What a loader hands to the engine: named views of some samples, and what comes with them.

Axes: B samples, V crops of each, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Device = torch.device | str


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loader hands to the engine.

    `views`: named inputs, `{"image": [B, 3, H, W]}` for the plain case; V crops of each image under one
    name are [B, V, 3, H, W]. `condition`: actions, text, … for the predictor. `side`: per-sample information
    a masker may use. `labels` are for probes only. `step`: the optimizer step it serves, from 0.
    """

    views: Mapping[str, Tensor]
    condition: Any = None
    side: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    step: int = 0

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
        return next(iter(self.views.values())).shape[0]

    def to(self, device: Device, non_blocking: bool = False) -> Batch:
        """The same batch on another device (`condition` moves where it is a tensor)."""
        move = {k: v.to(device, non_blocking=non_blocking) for k, v in self.views.items()}
        side = {k: v.to(device, non_blocking=non_blocking) for k, v in self.side.items()}
        given = self.condition
        condition = given.to(device, non_blocking=non_blocking) if isinstance(given, Tensor) else given
        return replace(self, views=move, condition=condition, side=side)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by torch's DataLoader."""
        return replace(self, views={k: v.pin_memory() for k, v in self.views.items()})
