"""Where the time of a training step goes, stage by stage.

What is unusual: the step is the training loop's own, with a clock put around its stages from outside, so
that nothing in the engine knows of being measured. At each end of a stage the device is waited for: the
stages are true, but their sum is more than a step that nobody interrupts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from jepa_core.training.step import TrainingStep
from jepa_core.types.batch import Batch
from jepa_core.types.mask_plan import MaskPlan

DATA, BACKWARD = "masks and copy", "backward, clip, guard"
STAGES = (
    *(DATA, "target forward", "target norm", "context forward", "predictor", "loss"),
    *(BACKWARD, "optimizer", "EMA"),
)


class Clock:
    """Seconds of each stage; what one stage calls counts for the inner one alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    def around(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time is added to the stage's."""

        def timed(*args: Any, **named: Any) -> Any:
            self._turn()
            self._open.append(stage)
            try:
                return call(*args, **named)
            finally:
                self._turn()
                self._open.pop()

        return timed

    def _turn(self) -> None:
        """Gives the time since the last turn to the innermost open stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def watched(training: TrainingStep, clock: Clock) -> Iterator[None]:
    """While it is entered, the stages of a training step are timed."""
    model = training.model
    places: list[tuple[Any, str, str]] = [
        (model, "encode_target", "target forward"),
        (model, "make_targets", "target norm"),
        (model, "encode_context", "context forward"),
        (model, "predict", "predictor"),
        (training.optimizer, "step", "optimizer"),
        (model, "update_target", "EMA"),
        (training, "forward", "loss"),
        (training, "accumulate", BACKWARD),
    ]
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
    for owner, name, stage in places:
        setattr(owner, name, clock.around(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, was in before:
            delattr(owner, name)
            if was is not None:
                setattr(owner, name, was)


Draw = Callable[[], tuple[Batch, MaskPlan]]


def split(training: TrainingStep, draw: Draw, steps: int) -> dict[str, float]:
    """Seconds of each stage, the mean of `steps`; `draw` gives a batch on the device, and masks for it."""
    training(*draw())
    clock = Clock(training.device)
    fetch = clock.around(DATA, draw)
    with watched(training, clock):
        for _ in range(steps):
            training(*fetch())
    return {stage: seconds / steps for stage, seconds in clock.seconds.items()}
