"""The time of each stage of a training step.

What is unusual: the step is the training loop's own. Its methods are wrapped from outside while it is
measured, so that the engine holds no timing code. The device is synchronised at both ends of each stage, so
the stages add up to more than an uninterrupted step.
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
    """Seconds of each stage; the time of a stage that another one calls counts for the inner one only."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    def wrap(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its time added to the stage's."""

        def run_timed(*args: Any, **named: Any) -> Any:
            self._switch()
            self._open.append(stage)
            try:
                return call(*args, **named)
            finally:
                self._switch()
                self._open.pop()

        return run_timed

    def _switch(self) -> None:
        """Adds the time since the last switch to the innermost open stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def time_stages(training: TrainingStep, clock: Clock) -> Iterator[None]:
    """While it is entered, the stages of a training step are timed by `clock`."""
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
    originals = [(owner, name, vars(owner).get(name)) for owner, name, _ in places]
    for owner, name, stage in places:
        setattr(owner, name, clock.wrap(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, original in originals:
            delattr(owner, name)
            if original is not None:
                setattr(owner, name, original)


Draw = Callable[[], tuple[Batch, MaskPlan]]


def measure_stages(training: TrainingStep, draw: Draw, steps: int) -> dict[str, float]:
    """Mean seconds of each stage over `steps` steps; `draw` returns a batch on the device, and its masks."""
    training(*draw())
    clock = Clock(training.device)
    fetch = clock.wrap(DATA, draw)
    with time_stages(training, clock):
        for _ in range(steps):
            training(*fetch())
    return {stage: seconds / steps for stage, seconds in clock.seconds.items()}
