"""What an optimizer must do: make a torch optimizer of groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from jepa_core.settings.optimizer import OptimizerSettings

ENTRIES = ("names", "group", "lr_scale", "fixed_decay")
"""Entries of a group beside `params`, by which the engine knows what to set in it before each step."""


@runtime_checkable
class Optimizer(Protocol):
    """`Optimizer(config)`: makes the torch optimizer of a model's trainable parameters."""

    Config: ClassVar[type[OptimizerSettings]]

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimizer over these groups, which are dictionaries as torch's optimizers take them.

        Each has `params`, their `names` in the model, the recipe's `group` ("" for the rest), its `lr_scale`
        and `fixed_decay` (None: the schedule's). Before each step the engine sets `lr` and `weight_decay` of
        every group that the optimizer has. It may split groups, and each part keeps these entries, `names`
        those of its own parameters. Its `state_dict` goes into checkpoints (`Config.state_entries` says what
        is in it), and is all that a resumed run needs. Raises UserError for parameters that it cannot take.
        """
        ...


def fusible(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether torch has its fused optimizers where these parameters are."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return devices <= {"cpu", "cuda"}
