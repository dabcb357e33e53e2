"""A row of the results: one implementation on one case, its time, and its least time by the roofline.

What is unusual: an implementation that cannot run here is a row too, with the reason, so that a table never
looks as if a peer had been forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch

from jepa_kernels.bench.ceilings import Ceilings
from jepa_kernels.bench.timing import Call, Time, measure


class CannotRun(Exception):
    """Raised by a peer that this machine, this torch or this case does not suit; its text is the reason."""


@dataclass(frozen=True)
class Work:
    """The least work of a call: bytes moved (each number read or written once) and operations."""

    moved: float
    operations: float = 0.0


@dataclass(frozen=True)
class Accuracy:
    """The error of an implementation on one case.

    error: relative distance (Frobenius) from the float32 reference
    over_torch: that, over the distance of torch's own attention in the same type of numbers
    same_bits: whether two runs gave the same bits
    """

    error: float
    over_torch: float
    same_bits: bool


@dataclass(frozen=True)
class Row:
    """One implementation on one case; times are None and `reason` says why where it could not run.

    accuracy: None where nothing is compared
    computed: what it computes over what the case needs, where that is known: padding of rows and of heads
    about: facts of the case that pictures need
    """

    op: str
    case: str
    direction: str
    impl: str
    work: Work
    time: Time | None = None
    reason: str = ""
    accuracy: Accuracy | None = None
    computed: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, ceilings: Ceilings) -> dict[str, Any]:
        """Plain values for JSON, with the fraction of the roofline that was reached."""
        moved, operations = self.work.moved, self.work.operations
        facts: dict[str, Any] = {
            "op": self.op,
            "case": self.case,
            "direction": self.direction,
            "impl": self.impl,
        }
        facts |= {**self.about, "bytes": moved, "operations": operations}
        facts |= {"bound": ceilings.bound(moved, operations), "least_s": self._least(ceilings)}
        return facts | (self._times(ceilings) if self.time else {"reason": self.reason})

    def _least(self, ceilings: Ceilings) -> float:
        return ceilings.least_time(self.work.moved, self.work.operations)

    def _times(self, ceilings: Ceilings) -> dict[str, Any]:
        assert self.time is not None
        time, least = self.time, self._least(ceilings)
        facts: dict[str, Any] = {"median_s": time.median, "low_s": time.low, "high_s": time.high}
        facts |= {"graph_s": time.graph, "launched_s": time.launched, "peak_bytes": time.peak}
        facts |= {"gb_s": self.work.moved / time.median / 1e9, "computed_over_useful": self.computed}
        facts |= {"tflop_s": self.work.operations / time.median / 1e12}
        facts |= asdict(self.accuracy) if self.accuracy else {"error": None}
        facts |= {"roofline": least / time.median}
        return facts | {"graph_roofline": least / time.graph if time.graph else None}


@dataclass(frozen=True)
class Settings:
    """Device and duration of measurements; `quick` takes few samples and a tenth of the time."""

    device: torch.device
    quick: bool = False
    samples: int | None = None

    @property
    def seconds(self) -> float:
        """Duration of each measurement."""
        return 0.01 if self.quick else 0.1


def _errors_of_triton() -> tuple[type[Exception], ...]:
    """Triton's error classes (tiles that do not fit a card raise one); they are no RuntimeErrors."""
    if find_spec("triton") is None:
        return ()
    from triton.errors import TritonError

    return (TritonError,)


PROBLEMS: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, ImportError, CannotRun)
PROBLEMS += _errors_of_triton()
"""Exceptions that kernels raise on a case that they do not support."""


def time_row(row: Row, calls: Call | Sequence[Call], settings: Settings, graph: bool = True) -> Row:
    """`row` with its time, or with the reason why there is none; see `timing.measure`."""
    try:
        return replace(row, time=_measure(calls, settings, graph))
    except PROBLEMS as error:
        return failed_row(row, error)


def _measure(calls: Call | Sequence[Call], settings: Settings, graph: bool) -> Time:
    """Times the call; on CUDA without a graph where it cannot be captured."""
    try:
        return measure(calls, settings.device, settings.seconds, graph)
    except PROBLEMS:
        if settings.device.type != "cuda" or not graph:
            raise
    return measure(calls, settings.device, settings.seconds, graph=False)


def failed_row(row: Row, error: Exception) -> Row:
    """`row` without a time, its reason the first line of the error."""
    first_line = str(error).strip().partition("\n")[0]
    text = first_line if isinstance(error, CannotRun) else f"{type(error).__name__}: {first_line}"
    return replace(row, reason=text[:200])
