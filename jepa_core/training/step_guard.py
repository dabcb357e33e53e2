"""Skips or stops at bad steps: NaN, infinite values, and losses far above the trend.

Judged after the backward pass and before the optimizer moves anything. Judging reads the loss and the
gradient's norm back from the device, once a step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.settings.sections import TrainSettings

WINDOW = 300
"""Losses that make the trend (V-JEPA 2.1), and steps among which skipped ones are counted."""


class StepRefused(UserError):
    """The run cannot go on: a step is not finite, or too many were skipped."""


class StepGuard:
    """`skip_reason(...)`: why the optimizer must not take this step, or None.

    Settings: `train.on_nonfinite`, `train.spike_guard`, `train.max_skipped`.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.skipped: list[int] = []
        """Numbers, from 1, of the steps that were skipped."""

    def skip_reason(
        self, step: int, loss: Tensor, terms: Mapping[str, Tensor], norm: Tensor, model: nn.Module
    ) -> str | None:
        """Judges step `step` (from 1) by its loss, its loss terms and the gradient's norm.

        Raises StepRefused for values that are not finite where `on_nonfinite` is "stop", and where more
        than `max_skipped` of the last 300 steps were skipped.
        """
        value = float(loss)
        finite = math.isfinite(value) and math.isfinite(float(norm))
        reason = self._spike(value) if finite else _not_finite(value, terms, model)
        if reason is None:
            self.losses.append(value)
            return None
        if not finite and self.settings.on_nonfinite == "stop":
            raise StepRefused(f"step {step:,}: {reason}")
        self._skip(step, reason)
        return reason

    def report_nonfinite(self, steps: Sequence[int], now: int) -> str:
        """Why these steps (from 1) changed nothing, where their values became known only at step `now`.

        Raises StepRefused as `skip_reason` does.
        """
        which = "step " + ", ".join(f"{step:,}" for step in steps[:3]) + (" …" if len(steps) > 3 else "")
        reason = f"the loss or its gradient was not finite at {which}"
        if self.settings.on_nonfinite == "stop":
            raise StepRefused(f"{reason}, which train.cuda_graph looks for when a line is logged")
        for step in steps:
            self._skip(step, reason)
        return reason

    def _skip(self, step: int, reason: str) -> None:
        """Counts a skipped step. Raises StepRefused where there are too many."""
        self.skipped.append(step)
        recent = sum(number > step - WINDOW for number in self.skipped)
        if recent > self.settings.max_skipped:
            raise StepRefused(
                f"step {step:,}: {reason}; {recent} of the last {WINDOW} steps had to be skipped, and "
                f"train.max_skipped allows {self.settings.max_skipped}"
            )

    def _spike(self, loss: float) -> str | None:
        k = self.settings.spike_guard
        if k is None or len(self.losses) < WINDOW:
            return None
        mean, deviation = fmean(self.losses), pstdev(self.losses)
        if loss <= mean + k * deviation:
            return None
        return f"the loss {loss:.4g} is more than {k:g} deviations above the last {WINDOW} ({mean:.4g})"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge steps the same way."""
        return {"losses": list(self.losses), "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave. Raises UserError for anything else."""
        try:
            losses, skipped = list(state["losses"]), list(state["skipped"])
        except (TypeError, KeyError):
            raise UserError("the state of the step guard has no lists of losses and skipped steps") from None
        if not all(type(loss) in (int, float) for loss in losses):
            raise UserError("the losses of the step guard's state are no numbers")
        if not all(type(step) is int for step in skipped):
            raise UserError("the skipped steps of the step guard's state are no whole numbers")
        self.losses, self.skipped = deque(losses, maxlen=WINDOW), skipped


def _not_finite(loss: float, terms: Mapping[str, Tensor], model: nn.Module) -> str:
    """Which term, or, where the loss is finite, which parameters' gradients."""
    if not math.isfinite(loss):
        bad = [f"{name} is {float(term)}" for name, term in terms.items() if not math.isfinite(float(term))]
        return f"the loss is {loss}" + (f" (term {', '.join(bad)})" if bad else "")
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    more = f" and {len(bad) - 2} more" if len(bad) > 2 else ""
    named = f" (of {', '.join(bad[:2])}{more})" if bad else ""
    return f"the loss is {loss:.4g}, but the gradient is not finite{named}"
