"""A row of the results: one implementation on one case, how long it took, and how long it had to take.

What is unusual: an implementation that cannot run here is a row too, with the reason, so that a table never
looks as if a peer had been forgotten.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from jepa_kernels.bench.ceilings import Ceilings
from jepa_kernels.bench.timing import Time, measure, replayed


class CannotRun(Exception):
    """Raised by a peer that this machine, this torch or this case does not suit; its text is the reason."""


@dataclass(frozen=True)
class Work:
    """What a call must do at least: bytes moved (each number read or written once) and operations."""

    moved: float
    operations: float = 0.0


@dataclass(frozen=True)
class Row:
    """One implementation on one case; times are None and `reason` says why where it could not run.

    error: relative distance (Frobenius) from the float32 reference; None where not compared
    """

    op: str
    case: str
    direction: str
    impl: str
    work: Work
    time: Time | None = None
    reason: str = ""
    error: float | None = None

    def facts(self, ceilings: Ceilings) -> dict[str, Any]:
        """As plain values for JSON, with the fractions of the roofline reached."""
        least = ceilings.least_time(self.work.moved, self.work.operations)
        times = asdict(self.time) if self.time else {}
        named = {"op": self.op, "case": self.case, "direction": self.direction, "impl": self.impl}
        facts = {**named, "bytes": self.work.moved, "operations": self.work.operations}
        facts |= {"bound": ceilings.bound(self.work.moved, self.work.operations), "least_s": least}
        if self.time is None:
            return {**facts, "reason": self.reason}
        facts |= {"median_s": times["median"], "low_s": times["low"], "high_s": times["high"]}
        facts |= {"graph_s": times["graph"], "peak_bytes": times["peak"], "error": self.error}
        facts["roofline"] = least / times["median"]
        facts["graph_roofline"] = least / times["graph"] if times["graph"] else None
        return facts


@dataclass(frozen=True)
class Settings:
    """Where and how long to measure; `quick` takes few samples and a tenth of the time."""

    device: torch.device
    quick: bool = False
    samples: int | None = None

    @property
    def seconds(self) -> float:
        """For each measurement."""
        return 0.01 if self.quick else 0.1


PROBLEMS = (RuntimeError, ValueError, TypeError, ImportError, CannotRun)
"""What other people's kernels raise on a case that they do not take."""


def timed(row: Row, call: Callable[[], Any], settings: Settings) -> Row:
    """`row` with its time, or with the reason why there is none."""
    try:
        return replace(row, time=measure(call, settings.device, settings.seconds))
    except PROBLEMS as error:
        return failed(row, error)


def with_graph(row: Row, call: Callable[[], Any], settings: Settings, less: float = 0.0) -> Row:
    """`row` with the time of `call` replayed from a CUDA graph, `less` what is not the row's.

    As it is on a CPU, where it has no time, and where the call cannot be captured.
    """
    if row.time is None or settings.device.type != "cuda":
        return row
    try:
        seconds = replayed(call, settings.seconds / 2) - less
    except PROBLEMS:
        return row  # a time without a graph says what there is to say
    return replace(row, time=replace(row.time, graph=seconds))


def failed(row: Row, error: Exception) -> Row:
    """`row` with the first line of what went wrong."""
    said = str(error).strip().partition("\n")[0]
    text = said if isinstance(error, CannotRun) else f"{type(error).__name__}: {said}"
    return replace(row, reason=text[:200])
